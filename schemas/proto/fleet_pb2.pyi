from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class ListRequest(_message.Message):
    __slots__ = ("family", "group", "limit")
    FAMILY_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    family: str
    group: str
    limit: int
    def __init__(self, family: _Optional[str] = ..., group: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class ShowRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class JsonReply(_message.Message):
    __slots__ = ("json",)
    JSON_FIELD_NUMBER: _ClassVar[int]
    json: str
    def __init__(self, json: _Optional[str] = ...) -> None: ...

class JoinTokenRequest(_message.Message):
    __slots__ = ("device_id", "profile", "site", "group", "hardware", "valid_s", "gateway")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    SITE_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    HARDWARE_FIELD_NUMBER: _ClassVar[int]
    VALID_S_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    profile: str
    site: str
    group: str
    hardware: str
    valid_s: int
    gateway: str
    def __init__(self, device_id: _Optional[str] = ..., profile: _Optional[str] = ..., site: _Optional[str] = ..., group: _Optional[str] = ..., hardware: _Optional[str] = ..., valid_s: _Optional[int] = ..., gateway: _Optional[str] = ...) -> None: ...

class AssignRequest(_message.Message):
    __slots__ = ("device_ids", "gateway")
    DEVICE_IDS_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    device_ids: _containers.RepeatedScalarFieldContainer[str]
    gateway: str
    def __init__(self, device_ids: _Optional[_Iterable[str]] = ..., gateway: _Optional[str] = ...) -> None: ...

class TrainRequest(_message.Message):
    __slots__ = ("family", "reason", "kind", "seed", "profile")
    FAMILY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    family: str
    reason: str
    kind: str
    seed: int
    profile: str
    def __init__(self, family: _Optional[str] = ..., reason: _Optional[str] = ..., kind: _Optional[str] = ..., seed: _Optional[int] = ..., profile: _Optional[str] = ...) -> None: ...

class CancelRunRequest(_message.Message):
    __slots__ = ("run_id", "reason")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    reason: str
    def __init__(self, run_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class StartRolloutRequest(_message.Message):
    __slots__ = ("version", "group", "security")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    SECURITY_FIELD_NUMBER: _ClassVar[int]
    version: str
    group: str
    security: bool
    def __init__(self, version: _Optional[str] = ..., group: _Optional[str] = ..., security: _Optional[bool] = ...) -> None: ...

class ControlRolloutRequest(_message.Message):
    __slots__ = ("rollout_id", "action", "reason")
    ROLLOUT_ID_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    rollout_id: str
    action: str
    reason: str
    def __init__(self, rollout_id: _Optional[str] = ..., action: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class AckDriftRequest(_message.Message):
    __slots__ = ("run_id", "retrain", "reason")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    RETRAIN_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    retrain: bool
    reason: str
    def __init__(self, run_id: _Optional[str] = ..., retrain: _Optional[bool] = ..., reason: _Optional[str] = ...) -> None: ...

class AnnounceChangeRequest(_message.Message):
    __slots__ = ("document", "signature", "certificate_pem")
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_PEM_FIELD_NUMBER: _ClassVar[int]
    document: bytes
    signature: bytes
    certificate_pem: bytes
    def __init__(self, document: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., certificate_pem: _Optional[bytes] = ...) -> None: ...

class RevokeCertificateRequest(_message.Message):
    __slots__ = ("serial", "certificate_pem", "reason")
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_PEM_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    serial: str
    certificate_pem: bytes
    reason: str
    def __init__(self, serial: _Optional[str] = ..., certificate_pem: _Optional[bytes] = ..., reason: _Optional[str] = ...) -> None: ...

class GrantPermitRequest(_message.Message):
    __slots__ = ("signed", "reason")
    SIGNED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    signed: bytes
    reason: str
    def __init__(self, signed: _Optional[bytes] = ..., reason: _Optional[str] = ...) -> None: ...

class RevokePermitRequest(_message.Message):
    __slots__ = ("permit_id", "reason")
    PERMIT_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    permit_id: str
    reason: str
    def __init__(self, permit_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ListPermitsRequest(_message.Message):
    __slots__ = ("device_id", "permit_id", "limit")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    PERMIT_ID_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    permit_id: str
    limit: int
    def __init__(self, device_id: _Optional[str] = ..., permit_id: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...
