"""The local stack's source of labels: its key, its registration, and the way into the lake."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from edge_producer.device_identity import DeviceIdentity, load_or_create
from feature_store import connect
from feature_store.labels import ANY_PROFILE, LABELLER
from feature_store.lake import Lake
from feature_store.lake_registry import DeviceRecord, DeviceRegistry
from infra.kafka.kafka_admin import KafkaAdmin
from infra.labels.label_outbox import LabelOutbox, PendingLabel, open_outbox
from schemas.envelope import Envelope, SealedMessage, seal
from schemas.errors import StackError
from schemas.events import Label
from schemas.topics import LABEL, Lane

SIGNER = "labeller"
"""Producer id of the local stack's source of labels."""
JSON_SCHEMA = "json"
_POLL_S = 0.25
_LAND_S = 60.0


class LabelOutcome(NamedTuple):
    """What became of labels.

    Attributes:
        new: Ids that are in the lake now and were not before.
        known: Ids that had been given before, word for word.
        conflicts: Ids that had been given before with other words.
    """

    new: tuple[str, ...]
    known: tuple[str, ...]
    conflicts: tuple[str, ...]


class Labeller:
    """Gives labels in its own name.

    Args:
        folder: Where its key and its outbox lie.
        lake: Registers it and says which devices there are.
    """

    def __init__(self, folder: Path, lake: Lake) -> None:
        self._folder = folder
        self._lake = lake
        self._registry = DeviceRegistry(lake)

    def devices(self) -> dict[str, str]:
        """Profile of each registered device, revoked ones included: their past may still be labelled."""
        records = self._registry.keys().values()
        return {r.device_id: r.profile for r in records if r.hardware != LABELLER}

    def give(self, labels: Iterable[Label], bootstrap_servers: str, namespace: str) -> LabelOutcome:
        """Send labels and wait until they are in the lake. Killed anywhere, a repeat finishes the rest.

        Raises:
            BrokerUnavailableError: The broker does not acknowledge; they stay in the outbox.
            StackError: They did not land in time.
        """
        identity = load_or_create(self._folder / "keys", SIGNER)
        self._register(identity)
        profiles = self.devices()
        with open_outbox(self._folder / "outbox.db") as outbox:
            # Step 1: numbered, on disk. Step 2: sent. Step 3: noted as sent; a crash before sends them again.
            told = outbox.take((label, profiles[label.device_id]) for label in labels)
            waiting = outbox.waiting()
            messages = [_sealed(w, outbox, identity) for w in waiting]
            KafkaAdmin(bootstrap_servers).send_all(
                LABEL.named(namespace), [(m.key, m.headers, m.value) for m in messages]
            )
            outbox.acknowledged(waiting)
        new, known, conflicts = (
            tuple(i for i, what in told.items() if what == wanted) for wanted in ("new", "known", "conflict")
        )
        self._await((*new, *known))
        return LabelOutcome(new, known, conflicts)

    def _register(self, identity: DeviceIdentity) -> None:
        record = DeviceRecord(
            device_id=SIGNER, profile=ANY_PROFILE, site="", group="", hardware=LABELLER,
            key_id=identity.key_id, public_key=identity.public_pem,
        )  # fmt: skip
        self._registry.register([record])

    def _await(self, ids: Sequence[str]) -> None:
        deadline = time.monotonic() + _LAND_S
        while missing := set(ids) - landed_ids(self._lake.root, ids):
            if time.monotonic() > deadline:
                raise StackError(
                    f"{len(missing)} labels, {min(missing)} first, did not reach the lake within "
                    f"{_LAND_S:.0f} s: `edgeloop dlq list` and `edgeloop job lag` say why"
                )
            time.sleep(_POLL_S)


def landed_ids(lake_root: Path, ids: Collection[str]) -> set[str]:
    """Those of the label ids that the newest cut holds."""
    if not ids:
        return set()
    with closing(connect(lake_root)) as con:
        query = "SELECT DISTINCT label_id FROM labels WHERE label_id IN (SELECT unnest(?))"
        return {row[0] for row in con.execute(query, [list(ids)]).fetchall()}


def _sealed(waiting: PendingLabel, outbox: LabelOutbox, identity: DeviceIdentity) -> SealedMessage:
    envelope = Envelope(
        schema=JSON_SCHEMA, profile=waiting.profile, producer=SIGNER, spool_id=outbox.spool_id,
        lane=Lane.LABEL, msg_no=waiting.msg_no, n_rows=1, raw_bytes=len(waiting.value), digest=b"", signer="",
    )  # fmt: skip
    return seal(LABEL.base, envelope, waiting.value, identity.signer)
