"""The guard evaluator: examines each proposed broad channel document, and countersigns or refuses it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, select

from model_service.fleet.known_profiles import KnownProfiles
from model_service.registry import candidates
from model_service.registry.candidates import CandidateState
from model_service.registry.database import Registry
from model_service.registry.registry_tables import commands, gate_verdicts
from model_service.rollout import rollout_store
from model_service.rollout.alarm_rates import LakeRates
from model_service.rollout.config_judges import LakeJudges
from model_service.rollout.guard_review import GuardFacts, GuardRuling, examine
from model_service.rollout.launch import profile_of, release_of, settings_of
from model_service.rollout.observing import RolloutReports, observe, with_rates
from model_service.rollout.rollout_record import CONFIG, RolloutRecord
from model_service.rollout.rollout_store import ChannelRequest
from model_service.trust import channel_targets
from model_service.trust.metadata import CryptoSigner
from model_service.trust.repository import TrustRepository
from schemas.channel_documents import BROAD, CANARY, RINGS, ChannelDocument, Release, Ring, artifact_path
from schemas.errors import RegistryError, TrustError
from schemas.updates import Role

log = logging.getLogger(__name__)


@dataclass
class GuardEvaluator:
    """Holds one of the keys that a broad channel document needs, and signs only what it derives itself.

    Args:
        registry: Holds proposals and raw reports.
        repo: Published metadata, proposals.
        signer: The guard's key of role ``channels-broad``.
        profiles: Profiles of the devices.
        rates: Alarm rates of treated and held-out devices.
        lifetime_s: Longest life of a channel document.
        clock: UTC seconds.
        judges: Judge configurations by what the lake holds.
    """

    registry: Registry
    repo: TrustRepository
    signer: CryptoSigner
    profiles: KnownProfiles
    rates: LakeRates
    lifetime_s: float
    clock: Callable[[], float]
    judges: LakeJudges

    def tick(self) -> bool:
        """Decide the oldest proposal, if there is one; returns whether one was decided."""
        with self.registry.reading() as connection:
            request = next((r for r in rollout_store.pending(connection) if r.ring == BROAD), None)
        if request is None or request.state != "proposed":
            return False
        with self.registry.reading() as connection:
            ruling = self.examine(connection, request)
        if ruling.answer == "wait":
            return False
        reason = ruling.reason or self._sign(request)
        now = self.clock()
        with self.registry.transaction() as connection:
            # Step 2: record it. After a crash before it, step 1 signs again, which changes nothing.
            done = rollout_store.set_request_state(
                connection, request, "refused" if reason else "countersigned", now, reason
            )
            if done and reason:
                detail = {"seq": request.document.seq, "reason": reason}
                key = f"guard/{request.document.seq}"
                rollout_store.event(
                    connection, request.rollout_id, now, "guard", "channel_refused", detail, key
                )
        log.info("seq %d of %s: %s", request.document.seq, request.rollout_id, reason or "countersigned")
        return done

    def examine(self, connection: Connection, request: ChannelRequest) -> GuardRuling:
        """Whether the document follows from what the guard reads itself."""
        try:
            record = rollout_store.load(connection, request.document.rollout_id)
        except RegistryError as exc:
            return GuardRuling("refuse", str(exc))
        reports = RolloutReports.of(record)
        observed = observe(connection, record, reports, self.repo.policy(), self.profiles.family)
        profile = profile_of(connection, record.group, record.family, self.profiles)
        if record.kind == CONFIG:
            observed = self.judges.with_finding(record, observed, profile, self.clock())
        else:
            observed = with_rates(connection, record, observed, self.rates, profile)
        phase = int(request.evidence.get("phase", -1))
        return examine(
            request.models, phase, record, self._facts(connection, record, phase), observed, self.clock()
        )

    def _sign(self, request: ChannelRequest) -> str:
        """Countersign exactly that document; returns why the trust layer refuses, empty: it does not."""
        try:
            # Step 1: the signature. The engine publishes only after step 2 has recorded it.
            channel_targets.countersign_broad(self.repo, request.models, self.signer)
        except TrustError as exc:
            return str(exc)
        return ""

    def _facts(self, connection: Connection, record: RolloutRecord, phase: int) -> GuardFacts:
        published = self.repo.channels(record.group)
        own = {ring: c for ring, c in published.items() if c.rollout_id == record.rollout_id}
        return GuardFacts(
            settings=settings_of(connection, record.group, record.family, self.profiles),
            release=self._published_release(connection, record),
            gates_failed=_gates_failed(connection, record.version),
            completed=rollout_store.last_completed(connection, record.group, before=record.rollout_id),
            canary=own.get(CANARY),
            broad=own.get(BROAD),
            in_force=published.get(BROAD),
            lifetime_s=self.lifetime_s,
            highest_seq=max((published[ring].seq for ring in RINGS if ring in published), default=0),
            published_at=_published_at(connection, record, phase - 1, own),
            waived=_waived(connection, record),
            aborted=record.state == "aborting",
        )

    def _published_release(self, connection: Connection, record: RolloutRecord) -> Release | None:
        """The candidate's release; None: it is not published, or registry and signed metadata disagree."""
        found = candidates.get(connection, record.version)
        target = self.repo.target(artifact_path(record.family, record.version))
        if found is None or found.state is not CandidateState.PUBLISHED or target is None:
            return None
        return release_of(found) if target.sha256 == found.sha256 else None


def _gates_failed(connection: Connection, version: str) -> tuple[str, ...] | None:
    rows = connection.execute(
        select(gate_verdicts.c.gate, gate_verdicts.c.passed).where(gate_verdicts.c.version == version)
    ).all()
    return tuple(sorted(r.gate for r in rows if not r.passed)) if rows else None


def _published_at(
    connection: Connection, record: RolloutRecord, phase: int, own: Mapping[Ring, ChannelDocument]
) -> float | None:
    """When the phase's document was published, UTC seconds; None: it is not the one that is in force."""
    ring: Ring = CANARY if phase == 0 and record.kind != CONFIG else BROAD
    found = [
        r
        for r in rollout_store.requests(connection, record.rollout_id)
        if r.ring == ring and r.state == "published" and r.sent.purpose == "phase" and r.sent.phase == phase
    ]
    newest = max(found, key=lambda r: r.document.seq, default=None)
    if newest is None or ring not in own or own[ring] != newest.models:
        return None
    return max(newest.updated_at, newest.models.issued.timestamp())


def _waived(connection: Connection, record: RolloutRecord) -> tuple[int, ...]:
    """The record's waived phases, as many of them as approvers have resumed by command."""
    rows = connection.execute(
        select(commands.c.body).where(commands.c.kind == "control_rollout", commands.c.state == "done")
    ).scalars()
    resumed = sum(
        body.get("rollout_id") == record.rollout_id
        and body.get("action") == "resume"
        and Role.APPROVER in body.get("roles", ())
        for body in rows
    )
    return tuple(sorted(record.waived))[:resumed]
