"""Judges candidates, and countersigns those that pass.

It uses neither arrays nor numbers of the trainer: bundles are read by digest, rows from the lake at the run's
pinned cut.
"""

from __future__ import annotations

import logging

from model_service.gates.evaluate import evaluate, refusal
from model_service.gates.gate_inputs import read_inputs
from model_service.gates.verdict import GateVerdict, not_shown
from model_service.gates.verdict_store import (
    PendingCandidate,
    mark_refused,
    mark_signed,
    pending_candidates,
    replace_verdicts,
    start_judging,
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
    """Judges one candidate after the other."""

    def __init__(self, settings: ModelSettings, registry: Registry) -> None:
        self._settings = settings
        self._registry = registry
        self._passed: dict[str, tuple[tuple[GateVerdict, ...], Manifest]] = {}

    def step(self) -> bool:
        """Judge all pending candidates, the oldest first; False: there was none.

        A candidate that cannot be judged now does not hold up the others: its error is raised after them.

        Raises:
            RetryableError: Something is out of reach, or a trainer's proposal is not there yet.
            OperatorError: A family's key is missing; raised at once.
        """
        with self._registry.reading() as connection:
            pending = pending_candidates(connection)
        each_in_turn(pending, self._process)
        return bool(pending)

    def _process(self, pending: PendingCandidate) -> None:
        # Step 1: mark it as being judged. After a crash between here and step 3 it is still pending, and is
        # judged again: same rows, same bytes, same verdicts.
        with self._registry.transaction() as connection:
            if not start_judging(connection, pending.version):
                return
        if pending.version not in self._passed:
            verdicts, manifest = self._judge(pending)
            if manifest is None:
                self._refuse(pending, verdicts)
                return
            self._passed[pending.version] = verdicts, manifest
        self._sign(pending, *self._passed[pending.version])

    def _judge(self, pending: PendingCandidate) -> tuple[tuple[GateVerdict, ...], Manifest | None]:
        """Verdicts, and the candidate's manifest; None: it did not pass."""
        try:
            inputs = read_inputs(self._settings, self._registry, pending)
            verdicts = evaluate(inputs)
        except RejectedError as exc:
            return (not_shown("evidence", str(exc)),), None
        return verdicts, None if refusal(verdicts) else inputs.candidate.manifest

    def _refuse(self, pending: PendingCandidate, verdicts: tuple[GateVerdict, ...]) -> None:
        reason = refusal(verdicts)
        # Step 2a: verdicts and the final state, in one transaction.
        with self._registry.transaction() as connection:
            replace_verdicts(connection, pending.version, verdicts)
            mark_refused(connection, pending.version, reason)
        log.info("refused %s: %s", pending.version, reason)

    def _sign(self, pending: PendingCandidate, verdicts: tuple[GateVerdict, ...], manifest: Manifest) -> None:
        # Step 2b: put the verdicts on record before there is a signature that rests on them.
        with self._registry.transaction() as connection:
            replace_verdicts(connection, pending.version, verdicts)
        # Step 3: sign. After a crash it signs again, which gives the same bytes.
        try:
            self._countersign(pending, manifest)
        except TrustError as exc:
            self._refuse(pending, (*verdicts, not_shown("proposal", str(exc))))
            return
        # Step 4: mark it as signed. It can be published only from here on; after a crash before this, step 1
        # finds it again.
        with self._registry.transaction() as connection:
            mark_signed(connection, pending.version, [v.gate for v in verdicts])
        self._passed.pop(pending.version, None)
        log.info("signed %s: %d gates passed", pending.version, len(verdicts))

    def _countersign(self, pending: PendingCandidate, manifest: Manifest) -> None:
        signer = load_online_key(self._settings.keys / KEYS, model_role(pending.family))
        repository = open_repository(self._settings)
        countersign_model(repository, signer, pending.sha256, TargetCustom.of(manifest))
