"""The gRPC service `FleetAdmin`, for people. Its answers are JSON documents (docs/grpc.md)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection, RowMapping

from model_service.detectors.bank_store import fitted_families
from model_service.fleet import permit_store
from model_service.fleet.certificate_ledger import record_if_absent, revoke_certificate
from model_service.fleet.device_assignments import assign
from model_service.fleet.devices import revoke_device
from model_service.fleet.twin_reports import TwinReports
from model_service.identity.authority import ca_path
from model_service.identity.tokens import Invitation, create_token
from model_service.registry.announced_changes import StoredAnnouncement
from model_service.service import fleet_reads as reads
from model_service.service import fleet_writes as writes
from model_service.service.access import AccessList
from model_service.service.announcing import accepted, announce, take_back
from model_service.service.answer_waiting import AnswerWaiter
from model_service.service.door import AccessRule, ServiceCall
from model_service.service.lake_lookup import LakeLookup
from model_service.service.named_certificate import plain_serial, read_own_certificate
from model_service.service.permit_check import checked_permit
from model_service.service.refusals import BadFieldError, UnknownNameError
from model_service.service.stream_wakeup import StreamWakeup
from model_service.service.workers import WorkerThreads
from model_service.settings import ModelSettings
from model_service.training.building import IMPORT
from model_service.training.run_states import RunState
from model_service.training.signed_announcement import SignedAnnouncement
from schemas.channel_documents import CONFIG_KIND
from schemas.errors import AccessError, RegistryError, ServiceUnavailableError
from schemas.profile import Profile
from schemas.proto.fleet_pb2 import (
    AckDriftRequest,
    AnnounceChangeRequest,
    AssignRequest,
    CancelRunRequest,
    ControlRolloutRequest,
    GrantPermitRequest,
    JoinTokenRequest,
    JsonReply,
    ListPermitsRequest,
    ListRequest,
    RevokeCertificateRequest,
    RevokePermitRequest,
    ShowRequest,
    StartRolloutRequest,
    TrainRequest,
)
from schemas.updates import Role

PEOPLE = frozenset({Role.VIEWER, Role.LABELLER, Role.OPERATOR, Role.APPROVER})
OPERATORS = frozenset({Role.OPERATOR})
APPROVERS = frozenset({Role.APPROVER})
_READS = ("ListDevices", "ListModels", "ShowModel", "ListRollouts", "ShowRollout", "ListRuns", "ListPeople",
          "ListPermits")  # fmt: skip
_WRITES = (
    "CreateJoinToken",
    "ListJoinTokens",
    "RevokeDevice",
    "AssignDevices",
    "Train",
    "CancelRun",
    "StartRollout",
)
_BY_APPROVERS = (
    "AckDrift",
    "AnnounceChange",
    "WithdrawChange",
    "RevokeCertificate",
    "GrantPermit",
    "RevokePermit",
)
RULES = {
    **{name: AccessRule(PEOPLE, 20.0) for name in _READS},
    **{name: AccessRule(OPERATORS, 30.0) for name in _WRITES},
    "ControlRollout": AccessRule(OPERATORS | APPROVERS, 30.0),
    **{name: AccessRule(APPROVERS, 30.0) for name in _BY_APPROVERS},
}
MAX_ASSIGNED = 10_000
MAX_TOKEN_S = 30 * 86400.0
KINDS = ("", "anomaly", "classifier", IMPORT, CONFIG_KIND)
ACTIONS = ("pause", "resume", "abort", "back")
_REPLY_S = 0.2


class FleetAdmin:
    """Handlers of the service.

    Args:
        settings: Lifetime of tokens; folder of the lake.
        workers: Threads for registry and files.
        access: Is refreshed at once after a revocation.
        wakeup: Wakes the streams, so that those of a revoked device end.
        watching: Number of open watch streams by device.
        twins: Counts the refused reports of twins.
        clock: UTC seconds.
    """

    def __init__(
        self,
        settings: ModelSettings,
        workers: WorkerThreads,
        access: AccessList,
        wakeup: StreamWakeup,
        watching: Mapping[str, int],
        twins: TwinReports,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ca_path, self._root = ca_path(settings), settings.root
        self._token_s, self._lake = settings.token_s, LakeLookup(settings.lake_root)
        self._workers, self._access, self._wakeup = workers, access, wakeup
        self._watching, self._twins, self._clock = watching, twins, clock
        self._answers = AnswerWaiter(workers, writes.answered_commands)

    async def list_devices(self, request: ListRequest, _call: ServiceCall) -> JsonReply:
        """Devices with what they last reported."""
        return await self._read(
            lambda c: reads.list_devices(
                c, request.group, request.limit, dict(self._watching), self._twins.unrecorded()
            )
        )

    async def list_models(self, request: ListRequest, _call: ServiceCall) -> JsonReply:
        """Candidates, newest first."""
        return await self._read(lambda c: reads.list_models(c, request.family, request.limit))

    async def show_model(self, request: ShowRequest, _call: ServiceCall) -> JsonReply:
        """A candidate with manifest, verdicts, run and rollouts."""
        return await self._read(lambda c: reads.show_model(c, request.id))

    async def list_rollouts(self, request: ListRequest, _call: ServiceCall) -> JsonReply:
        """Rollouts, newest first."""
        return await self._read(
            lambda c: reads.list_rollouts(c, request.family, request.group, request.limit)
        )

    async def show_rollout(self, request: ShowRequest, _call: ServiceCall) -> JsonReply:
        """A rollout with events, channels and reports."""
        return await self._read(lambda c: reads.show_rollout(c, request.id))

    async def list_runs(self, request: ListRequest, _call: ServiceCall) -> JsonReply:
        """Training runs, newest first."""
        return await self._read(lambda c: reads.list_runs(c, request.family, request.limit))

    async def list_people(self, request: ListRequest, _call: ServiceCall) -> JsonReply:
        """People's certificates, by name, the newest first."""
        return await self._read(lambda c: reads.list_people(c, request.limit))

    async def list_join_tokens(self, request: ListRequest, _call: ServiceCall) -> JsonReply:
        """Join tokens, newest first, without their secret."""
        return await self._read(lambda c: reads.list_tokens(c, request.limit))

    async def create_join_token(self, request: JoinTokenRequest, call: ServiceCall) -> JsonReply:
        """A new token; only this answer ever contains it."""
        valid_s = float(request.valid_s) or self._token_s
        if not 0 < valid_s <= MAX_TOKEN_S:
            raise BadFieldError("valid_s", f"more than 0, at most {MAX_TOKEN_S:.0f}")
        for field in ("profile", "site", "group", "hardware"):
            if not 1 <= len(getattr(request, field)) <= 64:
                raise BadFieldError(field, "1 to 64 characters")
        invitation = Invitation(
            request.device_id,
            request.profile,
            request.site,
            request.group,
            request.hardware,
            request.gateway,
        )
        now = self._clock()
        token = await self._workers.write(lambda c: create_token(c, invitation, valid_s, now, call.actor))
        return _reply({"device_id": request.device_id, "token": token, "valid_s": valid_s})

    async def revoke_device(self, request: ShowRequest, call: ServiceCall) -> JsonReply:
        """Refuse the device from now on, and end its open streams."""
        now = self._clock()
        await self._workers.write(lambda c: revoke_device(c, request.id, now, call.actor))
        await self._apply_revocation()
        return _reply({"device_id": request.id, "revoked": True})

    async def assign_devices(self, request: AssignRequest, call: ServiceCall) -> JsonReply:
        """Have a gateway send for devices from now on, or each for itself."""
        devices, gateway, now = list(request.device_ids), request.gateway, self._clock()
        if not 1 <= len(devices) <= MAX_ASSIGNED:
            raise BadFieldError("device_ids", f"1 to {MAX_ASSIGNED} devices")
        await self._workers.write(lambda c: assign(c, devices, gateway, now, call.actor))
        return _reply({"devices": devices, "gateway": gateway or None})

    async def revoke_certificate(self, request: RevokeCertificateRequest, call: ServiceCall) -> JsonReply:
        """Refuse a person's certificate from now on."""
        if bool(request.serial) == bool(request.certificate_pem):
            raise BadFieldError("serial", "give either this or certificate_pem")
        if request.certificate_pem:
            pem = request.certificate_pem
            ca_pem = await self._workers.in_thread(self._ca_path.read_bytes)
            holder, not_before = read_own_certificate(pem, ca_pem)
            serial = holder.serial
        else:
            holder, not_before, serial = None, 0.0, plain_serial(request.serial)
        now = self._clock()

        def revoke(connection: Connection) -> str:
            if holder is not None:
                record_if_absent(connection, holder, not_before)
            return revoke_certificate(connection, serial, now, call.actor, request.reason)

        name = await self._workers.write(revoke)
        await self._apply_revocation()
        return _reply({"name": name, "serial": serial, "revoked": True})

    async def grant_permit(self, request: GrantPermitRequest, call: ServiceCall) -> JsonReply:
        """Store a permit for an excerpt that the caller has signed, if the profile allows it."""
        now = self._clock()
        own = call.peer.key if call.peer is not None else b""
        signed, approver = await self._workers.in_thread(
            lambda: checked_permit(request.signed, self._ca_path, own, self._lake, now)
        )
        row = await self._workers.write(
            lambda c: permit_store.grant(c, signed, approver, request.reason, now)
        )
        self._wakeup.waits_for(signed.permit.device_id)
        return _reply(reads.permit_as_json(row))

    async def revoke_permit(self, request: RevokePermitRequest, call: ServiceCall) -> JsonReply:
        """Revoke a permit that no device has claimed."""
        permit_id, now = request.permit_id, self._clock()
        row = await self._workers.write(
            lambda c: permit_store.revoke(c, permit_id, call.actor, request.reason, now)
        )
        return _reply(reads.permit_as_json(row))

    async def list_permits(self, request: ListPermitsRequest, _call: ServiceCall) -> JsonReply:
        """Permits for excerpts, newest first."""
        return await self._read(
            lambda c: reads.list_permits(c, request.device_id, request.permit_id, request.limit)
        )

    async def train(self, request: TrainRequest, call: ServiceCall) -> JsonReply:
        """Request a training run."""
        if request.kind not in KINDS:
            raise BadFieldError("kind", "anomaly, classifier, imported, config, or empty")
        if request.kind == CONFIG_KIND:
            return await self._config_requested(request, call)
        profile = await self._profile_to_train(request.family, request.profile)
        wanted = writes.RunRequest(
            family=profile.model.family,
            profile=profile.name,
            actor=call.actor,
            kind=request.kind,
            seed=request.seed,
            detail=request.reason,
        )
        return await self._requested(wanted)

    async def cancel_run(self, request: CancelRunRequest, call: ServiceCall) -> JsonReply:
        """Cancel a training run that has not ended."""
        run_id, reason, now = request.run_id, request.reason, self._clock()
        was = await self._workers.write(lambda c: writes.cancel_run(c, run_id, call.actor, reason, now))
        return _reply({"run_id": run_id, "state": RunState.CANCELLED, "was": was})

    async def ack_drift(self, request: AckDriftRequest, call: ServiceCall) -> JsonReply:
        """A person's decision on a run that waits, or on a drift verdict that has no run."""
        name, now = request.run_id, self._clock()
        fitted = await self._workers.in_thread(lambda: fitted_families(self._root))

        def decide(connection: Connection) -> dict[str, Any] | None:
            run = writes.waiting_run(connection, name)
            if run is None:
                return None
            state = writes.decide_run(
                connection, run, call.actor, request.reason, now, retrain=request.retrain, fitted=fitted
            )
            return {"run_id": run.run_id, "state": state}

        if (decided := await self._workers.write(decide)) is not None:
            return _reply(decided)
        profile = await self._workers.in_thread(lambda: self._lake.verdict_profile(name))
        if profile is None:
            raise UnknownNameError(f"no waiting run and no drift verdict {name}: `edgeloop drift list`")
        if not request.retrain:
            raise RegistryError(f"no run waits because of {name}: there is nothing to dismiss")
        await self._profile_to_train("", profile.name)
        wanted = writes.RunRequest(
            profile.model.name, profile.name, call.actor, verdicts=(name,), detail=request.reason
        )
        return await self._requested(wanted)

    async def announce_change(self, request: AnnounceChangeRequest, call: ServiceCall) -> JsonReply:
        """Store a change that the caller knows of before it comes."""
        given = SignedAnnouncement(request.document, request.signature, request.certificate_pem)
        ca_pem = await self._workers.in_thread(self._ca_path.read_bytes)
        profiles, now = await self._workers.in_thread(self._lake.profiles), self._clock()
        change = accepted(given, ca_pem, call.actor, profiles, now)
        row = StoredAnnouncement(change.change_id, change.profile, *given, call.actor, now, None)
        await self._workers.write(lambda c: announce(c, row, change, now))
        times = {"start": change.start.isoformat(), "end": change.end.isoformat()}
        return _reply({"change_id": change.change_id, **times})

    async def withdraw_change(self, request: ShowRequest, call: ServiceCall) -> JsonReply:
        """Take an announcement back: nothing is learnt under it from now on."""
        now = self._clock()
        await self._workers.write(lambda c: take_back(c, request.id, call.actor, now))
        return _reply({"change_id": request.id, "withdrawn": True})

    async def start_rollout(self, request: StartRolloutRequest, call: ServiceCall) -> JsonReply:
        """Send the engine a command to start a rollout, and wait for its answer."""
        body = {"version": request.version, "group": request.group, "security": request.security}
        return await self._command("start_rollout", body, call)

    async def control_rollout(self, request: ControlRolloutRequest, call: ServiceCall) -> JsonReply:
        """Send the engine a command to pause, resume or abort, and wait for its answer."""
        if request.action not in ACTIONS:
            raise BadFieldError("action", f"one of {', '.join(ACTIONS)}")
        if request.action != "resume" and Role.OPERATOR not in call.roles:
            raise AccessError(f"{call.actor} may resume what waits for approval, but not {request.action}")
        body = {
            "rollout_id": request.rollout_id,
            "action": request.action,
            "reason": request.reason,
            # To resume without the missing evidence takes an approver: the engine checks the roles.
            "roles": sorted(role.value for role in call.roles),
        }
        return await self._command("control_rollout", body, call)

    async def _apply_revocation(self) -> None:
        """Refuse revoked holders from the next call on, and end their streams."""
        await self._workers.read(self._access.refresh)
        self._wakeup.wake()

    async def _read(self, work: Callable[[Connection], Any]) -> JsonReply:
        return _reply(await self._workers.read(work))

    async def _profile_to_train(self, family: str, profile: str) -> Profile:
        profiles = await self._workers.in_thread(self._lake.profiles)
        used = await self._workers.in_thread(self._lake.used_profiles)
        fitted = await self._workers.in_thread(lambda: fitted_families(self._root))
        return writes.profile_to_train(profiles, used, family, profile, fitted)

    async def _config_requested(self, request: TrainRequest, call: ServiceCall) -> JsonReply:
        """Have a configuration computed for each group whose devices run its profile."""
        profiles = await self._workers.in_thread(self._lake.profiles)
        family, now = request.family, self._clock()
        named = [p for p in profiles.values() if p.config(family) and request.profile in ("", p.name)]
        if not named:
            known = sorted({c.family for p in profiles.values() for c in p.configs}) or ["none"]
            raise UnknownNameError(f"no profile here has configurations '{family}': {', '.join(known)}")

        def ask(connection: Connection) -> list[str]:
            return writes.request_config(connection, family, [p.name for p in named], call.actor, now)

        return _reply({"family": family, "groups": await self._workers.write(ask)})

    async def _requested(self, wanted: writes.RunRequest) -> JsonReply:
        now = self._clock()
        run_id = await self._workers.write(lambda c: writes.request_run(c, wanted, now))
        return _reply({"run_id": run_id, "state": RunState.REQUESTED})

    async def _command(self, kind: str, body: dict[str, Any], call: ServiceCall) -> JsonReply:
        now = self._clock()
        command_id = await self._workers.write(
            lambda c: writes.insert_command(c, kind, body, call.actor, now)
        )
        try:
            async with asyncio.timeout(max(0.0, call.remaining_s - _REPLY_S)):
                answer = await self._answers.of(command_id)
        except TimeoutError as exc:
            if await self._workers.write(lambda c: writes.withdraw_command(c, command_id)):
                raise ServiceUnavailableError("the engine does not answer: nothing was done") from exc
            [answer] = await self._workers.read(lambda c: writes.answered_commands(c, [command_id]))
        return _outcome(answer)


def _outcome(answer: RowMapping) -> JsonReply:
    """The engine's answer.

    Raises:
        RegistryError: It refused.
    """
    outcome = answer["outcome"] or {}
    if answer["state"] == writes.REFUSED:
        raise RegistryError(str(outcome.get("reason", "the engine refused")))
    return _reply(outcome)


def _reply(value: Any) -> JsonReply:
    return JsonReply(json=json.dumps(value, ensure_ascii=False, default=str))
