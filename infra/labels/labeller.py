"""The local stack's source of labels: registers its key, and sends labels until they are in the lake."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
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
from schemas.boot_ids import GATEWAY
from schemas.envelope import Envelope, SealedMessage, seal
from schemas.errors import StackError
from schemas.events import JSON_SCHEMA, Label
from schemas.topics import LABEL, Lane

SIGNER = "labeller"
"""Producer id of the local stack's source of labels."""
_POLL_S = 0.25
_LAND_S = 60.0


class LabelOutcome(NamedTuple):
    """How the labels of one call ended, by id.

    Attributes:
        new: In the lake now, and not there before.
        known: Sent before with the same content.
        conflicts: Sent before with other content; not sent.
    """

    new: tuple[str, ...]
    known: tuple[str, ...]
    conflicts: tuple[str, ...]


class Labeller:
    """Sends labels under its own name and key.

    Args:
        folder: Folder of its key and its outbox.
        lake: Where it registers itself and finds the devices.
        troubles: Says what stops the stack, a line each.
    """

    def __init__(self, folder: Path, lake: Lake, troubles: Callable[[], list[str]] = list) -> None:
        self._folder = folder
        self._lake = lake
        self._troubles = troubles
        self._registry = DeviceRegistry(lake)

    def devices(self) -> dict[str, str]:
        """Profile of each registered device. Revoked ones are included: their past may still be labelled."""
        records = self._registry.history().newest.values()
        return {r.device_id: r.profile for r in records if r.hardware not in (LABELLER, GATEWAY)}

    def submit(self, labels: Iterable[Label], bootstrap_servers: str, namespace: str) -> LabelOutcome:
        """Send labels and wait until they are in the lake. After a crash, a repeat finishes the rest.

        Raises:
            BrokerUnavailableError: The broker does not acknowledge; the labels stay in the outbox.
            StackError: The labels did not land in time.
        """
        identity = load_or_create(self._folder / "keys", SIGNER)
        self._register(identity)
        profiles = self.devices()
        with open_outbox(self._folder / "outbox.db") as outbox:
            # Step 1: number the labels on disk. A crash after it: the next call sends them.
            outcome = outbox.take((label, profiles[label.device_id]) for label in labels)
            pending = outbox.pending()
            messages = [_sealed(label, outbox, identity) for label in pending]
            # Step 2: send them. A crash after it: the next call sends the same messages again.
            KafkaAdmin(bootstrap_servers).send_all(
                LABEL.named(namespace), [(m.key, m.headers, m.value) for m in messages]
            )
            # Step 3: mark them as sent.
            outbox.mark_sent(pending)
        new, known, conflicts = (
            tuple(i for i, ended in outcome.items() if ended == wanted)
            for wanted in ("new", "known", "conflict")
        )
        self._await((*new, *known))
        return LabelOutcome(new, known, conflicts)

    def _register(self, identity: DeviceIdentity) -> None:
        record = DeviceRecord(
            device_id=SIGNER,
            profile=ANY_PROFILE,
            site="",
            group="",
            hardware=LABELLER,
            key_id=identity.key_id,
            public_key=identity.public_pem,
        )
        self._registry.register([record])

    def _await(self, ids: Sequence[str]) -> None:
        deadline = time.monotonic() + _LAND_S
        while missing := set(ids) - landed_ids(self._lake.root, ids):
            if time.monotonic() > deadline:
                why = "; ".join(self._troubles()) or "`edgeloop dlq list` and `edgeloop job lag` say why"
                raise StackError(
                    f"{len(missing)} labels, {min(missing)} first, did not reach the lake within "
                    f"{_LAND_S:.0f} s: {why}"
                )
            time.sleep(_POLL_S)


def landed_ids(lake_root: Path, ids: Collection[str]) -> set[str]:
    """Those of the label ids that are in the newest cut."""
    if not ids:
        return set()
    with closing(connect(lake_root, comments=False)) as connection:
        query = "SELECT DISTINCT label_id FROM labels WHERE label_id IN (SELECT unnest(?))"
        return {row[0] for row in connection.execute(query, [list(ids)]).fetchall()}


def _sealed(label: PendingLabel, outbox: LabelOutbox, identity: DeviceIdentity) -> SealedMessage:
    envelope = Envelope(
        schema=JSON_SCHEMA,
        profile=label.profile,
        producer=SIGNER,
        spool_id=outbox.spool_id,
        lane=Lane.LABEL,
        msg_no=label.msg_no,
        n_rows=1,
        raw_bytes=len(label.value),
        digest=b"",
        signer="",
    )
    return seal(LABEL.base, envelope, label.value, identity.signer)
