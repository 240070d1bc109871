"""Judges candidates, and countersigns what it judged itself.

It trusts neither the trainer's arrays nor its numbers: bytes come by digest, rows from the lake at the run's
pinned cut.
"""

from __future__ import annotations

import logging

from model_service.gates.case_file import collect
from model_service.gates.evaluate import evaluate, refusal
from model_service.gates.verdict import GateVerdict, not_shown
from model_service.gates.verdict_store import (
    PendingCandidate,
    all_waiting,
    keep_verdicts,
    refuse,
    sign,
    take,
)
from model_service.in_turn import each_in_turn
from model_service.registry.database import Registry
from model_service.settings import ModelSettings
from model_service.trust.ceremony import open_repository
from model_service.trust.keys import load_online_key
from model_service.trust.model_targets import countersign_model
from schemas.channel_documents import TargetCustom, model_role
from schemas.errors import RejectedError, TrustError
from schemas.manifest import Manifest

log = logging.getLogger(__name__)

KEYS = "gate"
"""Folder of the gate's keys, one a family."""


class Gate:
    """Judges one candidate after the other.

    Args:
        settings: Where registry, repository, artifacts, keys and lake are.
        registry: Open.
    """

    def __init__(self, settings: ModelSettings, registry: Registry) -> None:
        self._settings = settings
        self._registry = registry
        self._passed: dict[str, tuple[tuple[GateVerdict, ...], Manifest]] = {}

    def step(self) -> bool:
        """Judges what waits, the oldest first; False: nothing did.

        A candidate that cannot be judged now holds up no other: its error is raised when all had their turn.

        Raises:
            RetryableError: Something is out of reach, or a trainer's proposal is not there yet.
            OperatorError: A family's key is missing; at once.
        """
        with self._registry.reading() as connection:
            found = all_waiting(connection)
        each_in_turn(found, self._settle)
        return bool(found)

    def _settle(self, waiting: PendingCandidate) -> None:
        # Step 1: take it. Killed from here to step 3, it is found again and judged again: same rows, same
        # bytes, same verdicts.
        with self._registry.transaction() as connection:
            if not take(connection, waiting.version):
                return
        if waiting.version not in self._passed:
            verdicts, manifest = self._judge(waiting)
            if manifest is None:
                self._refuse(waiting, verdicts)
                return
            self._passed[waiting.version] = verdicts, manifest
        self._sign(waiting, *self._passed[waiting.version])

    def _judge(self, waiting: PendingCandidate) -> tuple[tuple[GateVerdict, ...], Manifest | None]:
        """Verdicts, and the manifest of what passed; None: it did not."""
        try:
            case = collect(self._settings, self._registry, waiting)
            verdicts = evaluate(case)
        except RejectedError as exc:
            return (not_shown("evidence", str(exc)),), None
        return verdicts, None if refusal(verdicts) else case.candidate.manifest

    def _refuse(self, waiting: PendingCandidate, verdicts: tuple[GateVerdict, ...]) -> None:
        why = refusal(verdicts)
        # Step 2a: verdicts and the end of it, at once.
        with self._registry.transaction() as connection:
            keep_verdicts(connection, waiting.version, verdicts)
            refuse(connection, waiting.version, why)
        log.info("refused %s: %s", waiting.version, why)

    def _sign(self, waiting: PendingCandidate, verdicts: tuple[GateVerdict, ...], manifest: Manifest) -> None:
        # Step 2b: what the signature rests on is on record before there is one.
        with self._registry.transaction() as connection:
            keep_verdicts(connection, waiting.version, verdicts)
        # Step 3: sign. A second signature on the same proposal is the first one again.
        try:
            self._countersign(waiting, manifest)
        except TrustError as exc:
            self._refuse(waiting, (*verdicts, not_shown("proposal", str(exc))))
            return
        # Step 4: say so. Killed before, step 1 finds it again, and it is published only from here on.
        with self._registry.transaction() as connection:
            sign(connection, waiting.version, [v.gate for v in verdicts])
        self._passed.pop(waiting.version, None)
        log.info("signed %s: %d gates passed", waiting.version, len(verdicts))

    def _countersign(self, waiting: PendingCandidate, manifest: Manifest) -> None:
        family, version = waiting.family, waiting.version
        signer = load_online_key(self._settings.keys / KEYS, model_role(family))
        custom = TargetCustom(family=family, version=version, opset=manifest.opset)
        countersign_model(open_repository(self._settings), signer, waiting.sha256, custom)
