"""A client of the model service for people: FleetAdmin over mutual TLS; its errors become `PipelineError`."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Self

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from model_service import ModelSettings, SignedAnnouncement, authority, read_address
from schemas import errors
from schemas.errors import AccessError, PipelineError, RegistryError, ServiceUnavailableError, TrustError
from schemas.proto.fleet_pb2 import (
    AckDriftRequest,
    AnnounceChangeRequest,
    AssignRequest,
    CancelRunRequest,
    ControlRolloutRequest,
    GrantPermitRequest,
    JoinTokenRequest,
    ListPermitsRequest,
    ListRequest,
    RevokeCertificateRequest,
    RevokePermitRequest,
    ShowRequest,
    StartRolloutRequest,
    TrainRequest,
)
from schemas.proto.fleet_pb2_grpc import FleetAdminStub
from schemas.updates import Attack

TIMEOUT_S = 10.0
MAX_REPLY_BYTES = 64 * 1024**2
Json = dict[str, Any]
_BY_REASON = {
    re.sub(r"(?<!^)([A-Z])", r"_\1", name).upper(): kind
    for name, kind in vars(errors).items()
    if inspect.isclass(kind) and issubclass(kind, PipelineError)
}
_BY_CODE: Mapping[grpc.StatusCode, type[PipelineError]] = {
    grpc.StatusCode.UNAVAILABLE: ServiceUnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: ServiceUnavailableError,
    grpc.StatusCode.PERMISSION_DENIED: AccessError,
    grpc.StatusCode.UNAUTHENTICATED: AccessError,
}


class FleetClient:
    """Calls the model service as a person. Close it, or use it in a ``with``.

    Args:
        settings: Name the folders of the service's address and of the people's certificates.
        role: Calls use the certificate of a person who has this role.
        timeout_s: Deadline of each call.

    Raises:
        ServiceUnavailableError: No model service ever ran there.
        AccessError: No certificate in that folder has the role.
    """

    def __init__(self, settings: ModelSettings, role: str = "operator", timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        address = read_address(settings)
        if address is None:
            raise ServiceUnavailableError(f"no model service runs in {settings.root}: `edgeloop up`")
        self._target = f"{address.host}:{address.delivery_port}"
        options = [
            ("grpc.ssl_target_name_override", settings.names[0]),
            ("grpc.enable_http_proxy", 0),
            ("grpc.max_receive_message_length", MAX_REPLY_BYTES),
        ]
        self._channel = grpc.secure_channel(self._target, _credentials(settings, role), options)
        self._stub = FleetAdminStub(self._channel)  # type: ignore[no-untyped-call]

    def devices(self, group: str = "", limit: int = 0) -> list[Json]:
        """Devices with their last report."""
        return self._rows("ListDevices", ListRequest(group=group, limit=limit))

    def models(self, family: str = "", limit: int = 0) -> list[Json]:
        """Candidates, newest first."""
        return self._rows("ListModels", ListRequest(family=family, limit=limit))

    def model(self, version: str) -> Json:
        """A candidate with manifest, verdicts, run and rollouts."""
        return self._one("ShowModel", ShowRequest(id=version))

    def runs(self, family: str = "", limit: int = 0) -> list[Json]:
        """Training runs, newest first."""
        return self._rows("ListRuns", ListRequest(family=family, limit=limit))

    def rollouts(self, family: str = "", group: str = "", limit: int = 0) -> list[Json]:
        """Rollouts, newest first."""
        return self._rows("ListRollouts", ListRequest(family=family, group=group, limit=limit))

    def rollout(self, rollout_id: str) -> Json:
        """A rollout with record, events, channels and reports."""
        return self._one("ShowRollout", ShowRequest(id=rollout_id))

    def tokens(self, limit: int = 0) -> list[Json]:
        """Join tokens, newest first, without their secret."""
        return self._rows("ListJoinTokens", ListRequest(limit=limit))

    def create_token(
        self,
        device_id: str,
        profile: str,
        *,
        site: str,
        group: str,
        hardware: str,
        valid_s: int = 0,
        gateway: str = "",
    ) -> Json:
        """A new join token.

        Args:
            device_id: The only device that can use the token.
            profile: Name of the device's profile.
            site: Site of the device.
            group: Rollout group of the device.
            hardware: Hardware class of the device.
            valid_s: Life of the token; 0: the service's default.
            gateway: Gateway that is to send for the device; empty: none.
        """
        request = JoinTokenRequest(
            device_id=device_id,
            profile=profile,
            site=site,
            group=group,
            hardware=hardware,
            valid_s=valid_s,
            gateway=gateway,
        )
        return self._one("CreateJoinToken", request)

    def revoke(self, device_id: str) -> Json:
        """Refuse the device for ever."""
        return self._one("RevokeDevice", ShowRequest(id=device_id))

    def assign(self, device_ids: Sequence[str], gateway: str = "") -> Json:
        """Have a gateway send for devices from now on; without one, each for itself."""
        return self._one("AssignDevices", AssignRequest(device_ids=device_ids, gateway=gateway))

    def people(self, limit: int = 0) -> list[Json]:
        """People's certificates, by name, the newest first."""
        return self._rows("ListPeople", ListRequest(limit=limit))

    def revoke_certificate(self, serial: str = "", certificate_pem: bytes = b"", reason: str = "") -> Json:
        """Refuse a person's certificate for ever. Role: approver.

        Args:
            serial: As ``people`` lists it.
            certificate_pem: Instead of the serial, for a certificate that is not on record.
            reason: Kept in the history.
        """
        request = RevokeCertificateRequest(serial=serial, certificate_pem=certificate_pem, reason=reason)
        return self._one("RevokeCertificate", request)

    def grant_permit(self, signed: bytes, reason: str = "") -> Json:
        """Store a permit for an excerpt that this person has signed. Role: approver."""
        return self._one("GrantPermit", GrantPermitRequest(signed=signed, reason=reason))

    def revoke_permit(self, permit_id: str, reason: str = "") -> Json:
        """Revoke a permit that no device has claimed. Role: approver."""
        return self._one("RevokePermit", RevokePermitRequest(permit_id=permit_id, reason=reason))

    def permits(self, device_id: str = "", permit_id: str = "", limit: int = 0) -> list[Json]:
        """Permits for excerpts, newest first."""
        request = ListPermitsRequest(device_id=device_id, permit_id=permit_id, limit=limit)
        return self._rows("ListPermits", request)

    def train(self, family: str, reason: str = "", kind: str = "", seed: int = 0, profile: str = "") -> Json:
        """Request a training run of a family, or of a profile's."""
        request = TrainRequest(family=family, reason=reason, kind=kind, seed=seed, profile=profile)
        return self._one("Train", request)

    def cancel_run(self, run_id: str, reason: str = "") -> Json:
        """Cancel a training run that has not ended."""
        return self._one("CancelRun", CancelRunRequest(run_id=run_id, reason=reason))

    def ack_drift(self, run_id: str, *, retrain: bool, reason: str = "") -> Json:
        """Decide on a waiting run, or on a drift verdict by its event id."""
        return self._one("AckDrift", AckDriftRequest(run_id=run_id, retrain=retrain, reason=reason))

    def announce_change(self, given: SignedAnnouncement) -> Json:
        """Announce a change before it comes. Role: approver."""
        document, signature, certificate = given
        request = AnnounceChangeRequest(document=document, signature=signature, certificate_pem=certificate)
        return self._one("AnnounceChange", request)

    def withdraw_change(self, change_id: str) -> Json:
        """Take an announcement back. Role: approver."""
        return self._one("WithdrawChange", ShowRequest(id=change_id))

    def start_rollout(self, version: str, group: str, *, security: bool = False) -> Json:
        """Request a rollout from the engine."""
        return self._one("StartRollout", StartRolloutRequest(version=version, group=group, security=security))

    def control_rollout(self, rollout_id: str, action: str, reason: str = "") -> Json:
        """Request that the engine does ``pause``, ``resume``, ``abort`` or ``back``."""
        return self._one(
            "ControlRollout", ControlRolloutRequest(rollout_id=rollout_id, action=action, reason=reason)
        )

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _rows(self, method: str, request: object) -> list[Json]:
        rows: list[Json] = self._call(method, request)
        return rows

    def _one(self, method: str, request: object) -> Json:
        row: Json = self._call(method, request)
        return row

    def _call(self, method: str, request: object) -> Any:
        try:
            reply = getattr(self._stub, method)(request, timeout=self._timeout_s)
        except grpc.RpcError as exc:
            raise _as_pipeline_error(exc, self._target) from exc
        return json.loads(reply.json)


def _credentials(settings: ModelSettings, role: str) -> grpc.ChannelCredentials:
    key, certificate = authority.person_paths(settings, role)
    try:
        pair = authority.read_pair(key, certificate)
    except OSError as exc:
        raise AccessError(f"the certificate of a person with role {role} cannot be read: {exc}") from exc
    return grpc.ssl_channel_credentials(authority.read_ca(settings), *pair)


def _as_pipeline_error(error: Any, target: str) -> PipelineError:
    """The error that the service raised, or the one that a missing answer means."""
    status = rpc_status.from_call(error)
    if status is None:
        kind = _BY_CODE.get(error.code(), RegistryError)
        if kind is ServiceUnavailableError:
            return kind(f"the model service at {target} does not answer: `edgeloop up` starts it")
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            return kind(
                f"the model service at {target} is older than this command: `edgeloop down`, then `up`"
            )
        return kind(f"the model service at {target} answered: {error.details()}")
    info = error_details_pb2.ErrorInfo()
    has_reason = any(detail.Unpack(info) for detail in status.details)
    if error.code() in _BY_CODE:
        return _BY_CODE[error.code()](status.message)
    kind = _BY_REASON.get(info.reason, RegistryError) if has_reason else RegistryError
    if issubclass(kind, TrustError):
        return TrustError(status.message, Attack(info.metadata["attack"]))
    return kind(status.message)
