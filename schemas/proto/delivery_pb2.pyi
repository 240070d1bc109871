from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EnrollRequest(_message.Message):
    __slots__ = ("device_id", "token", "csr_pem", "signing_key_pem", "signing_proof")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    CSR_PEM_FIELD_NUMBER: _ClassVar[int]
    SIGNING_KEY_PEM_FIELD_NUMBER: _ClassVar[int]
    SIGNING_PROOF_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    token: str
    csr_pem: bytes
    signing_key_pem: str
    signing_proof: bytes
    def __init__(self, device_id: _Optional[str] = ..., token: _Optional[str] = ..., csr_pem: _Optional[bytes] = ..., signing_key_pem: _Optional[str] = ..., signing_proof: _Optional[bytes] = ...) -> None: ...

class EnrollResponse(_message.Message):
    __slots__ = ("certificate_pem", "ca_pem", "server_time_ms")
    CERTIFICATE_PEM_FIELD_NUMBER: _ClassVar[int]
    CA_PEM_FIELD_NUMBER: _ClassVar[int]
    SERVER_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    certificate_pem: bytes
    ca_pem: bytes
    server_time_ms: int
    def __init__(self, certificate_pem: _Optional[bytes] = ..., ca_pem: _Optional[bytes] = ..., server_time_ms: _Optional[int] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("certificate_pem", "csr_pem", "at_ms", "proof")
    CERTIFICATE_PEM_FIELD_NUMBER: _ClassVar[int]
    CSR_PEM_FIELD_NUMBER: _ClassVar[int]
    AT_MS_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    certificate_pem: bytes
    csr_pem: bytes
    at_ms: int
    proof: bytes
    def __init__(self, certificate_pem: _Optional[bytes] = ..., csr_pem: _Optional[bytes] = ..., at_ms: _Optional[int] = ..., proof: _Optional[bytes] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("device_id",)
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    def __init__(self, device_id: _Optional[str] = ...) -> None: ...

class Hint(_message.Message):
    __slots__ = ("timestamp_version",)
    TIMESTAMP_VERSION_FIELD_NUMBER: _ClassVar[int]
    timestamp_version: int
    def __init__(self, timestamp_version: _Optional[int] = ...) -> None: ...

class FetchMetadataRequest(_message.Message):
    __slots__ = ("device_id", "versions", "documents")
    class VersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class DocumentsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    versions: _containers.ScalarMap[str, int]
    documents: _containers.ScalarMap[str, str]
    def __init__(self, device_id: _Optional[str] = ..., versions: _Optional[_Mapping[str, int]] = ..., documents: _Optional[_Mapping[str, str]] = ...) -> None: ...

class File(_message.Message):
    __slots__ = ("name", "data")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    name: str
    data: bytes
    def __init__(self, name: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class FetchMetadataResponse(_message.Message):
    __slots__ = ("metadata", "documents", "server_time_ms")
    METADATA_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    SERVER_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    metadata: _containers.RepeatedCompositeFieldContainer[File]
    documents: _containers.RepeatedCompositeFieldContainer[File]
    server_time_ms: int
    def __init__(self, metadata: _Optional[_Iterable[_Union[File, _Mapping]]] = ..., documents: _Optional[_Iterable[_Union[File, _Mapping]]] = ..., server_time_ms: _Optional[int] = ...) -> None: ...

class FetchArtifactRequest(_message.Message):
    __slots__ = ("device_id", "sha256", "offset")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    sha256: str
    offset: int
    def __init__(self, device_id: _Optional[str] = ..., sha256: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class ArtifactChunk(_message.Message):
    __slots__ = ("offset", "data")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    offset: int
    data: bytes
    def __init__(self, offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class Installed(_message.Message):
    __slots__ = ("family", "version", "sha256")
    FAMILY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    family: str
    version: str
    sha256: str
    def __init__(self, family: _Optional[str] = ..., version: _Optional[str] = ..., sha256: _Optional[str] = ...) -> None: ...

class Shadow(_message.Message):
    __slots__ = ("active_version", "shadow_version", "windows", "active_alarms", "shadow_alarms", "mean_difference", "m2_difference", "deadline_misses", "active_mean", "shadow_mean", "alarms", "labelled", "active_took", "shadow_took", "active_scores", "shadow_scores")
    ACTIVE_VERSION_FIELD_NUMBER: _ClassVar[int]
    SHADOW_VERSION_FIELD_NUMBER: _ClassVar[int]
    WINDOWS_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_ALARMS_FIELD_NUMBER: _ClassVar[int]
    SHADOW_ALARMS_FIELD_NUMBER: _ClassVar[int]
    MEAN_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    M2_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_MISSES_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_MEAN_FIELD_NUMBER: _ClassVar[int]
    SHADOW_MEAN_FIELD_NUMBER: _ClassVar[int]
    ALARMS_FIELD_NUMBER: _ClassVar[int]
    LABELLED_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_TOOK_FIELD_NUMBER: _ClassVar[int]
    SHADOW_TOOK_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_SCORES_FIELD_NUMBER: _ClassVar[int]
    SHADOW_SCORES_FIELD_NUMBER: _ClassVar[int]
    active_version: str
    shadow_version: str
    windows: int
    active_alarms: int
    shadow_alarms: int
    mean_difference: float
    m2_difference: float
    deadline_misses: int
    active_mean: float
    shadow_mean: float
    alarms: AlarmPairs
    labelled: LabelledPairs
    active_took: _containers.RepeatedScalarFieldContainer[int]
    shadow_took: _containers.RepeatedScalarFieldContainer[int]
    active_scores: _containers.RepeatedScalarFieldContainer[int]
    shadow_scores: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, active_version: _Optional[str] = ..., shadow_version: _Optional[str] = ..., windows: _Optional[int] = ..., active_alarms: _Optional[int] = ..., shadow_alarms: _Optional[int] = ..., mean_difference: _Optional[float] = ..., m2_difference: _Optional[float] = ..., deadline_misses: _Optional[int] = ..., active_mean: _Optional[float] = ..., shadow_mean: _Optional[float] = ..., alarms: _Optional[_Union[AlarmPairs, _Mapping]] = ..., labelled: _Optional[_Union[LabelledPairs, _Mapping]] = ..., active_took: _Optional[_Iterable[int]] = ..., shadow_took: _Optional[_Iterable[int]] = ..., active_scores: _Optional[_Iterable[int]] = ..., shadow_scores: _Optional[_Iterable[int]] = ...) -> None: ...

class AlarmPairs(_message.Message):
    __slots__ = ("active_only", "shadow_only", "active_only_runs", "shadow_only_runs")
    ACTIVE_ONLY_FIELD_NUMBER: _ClassVar[int]
    SHADOW_ONLY_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_ONLY_RUNS_FIELD_NUMBER: _ClassVar[int]
    SHADOW_ONLY_RUNS_FIELD_NUMBER: _ClassVar[int]
    active_only: int
    shadow_only: int
    active_only_runs: int
    shadow_only_runs: int
    def __init__(self, active_only: _Optional[int] = ..., shadow_only: _Optional[int] = ..., active_only_runs: _Optional[int] = ..., shadow_only_runs: _Optional[int] = ...) -> None: ...

class LabelledPairs(_message.Message):
    __slots__ = ("windows", "active_detected", "shadow_detected", "active_only", "shadow_only")
    WINDOWS_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_DETECTED_FIELD_NUMBER: _ClassVar[int]
    SHADOW_DETECTED_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_ONLY_FIELD_NUMBER: _ClassVar[int]
    SHADOW_ONLY_FIELD_NUMBER: _ClassVar[int]
    windows: int
    active_detected: int
    shadow_detected: int
    active_only: int
    shadow_only: int
    def __init__(self, windows: _Optional[int] = ..., active_detected: _Optional[int] = ..., shadow_detected: _Optional[int] = ..., active_only: _Optional[int] = ..., shadow_only: _Optional[int] = ...) -> None: ...

class ReportRequest(_message.Message):
    __slots__ = ("device_id", "report_no", "nonce", "state", "result", "channel_seq", "rollout_id", "attempted", "installed", "attack", "detail", "shadow", "crashes", "trusted_time_ms", "versions", "profile", "hardware", "profile_state", "restarts", "out_of_memory", "unclean_ends", "runtime")
    class VersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    REPORT_NO_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_SEQ_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTED_FIELD_NUMBER: _ClassVar[int]
    INSTALLED_FIELD_NUMBER: _ClassVar[int]
    ATTACK_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    CRASHES_FIELD_NUMBER: _ClassVar[int]
    TRUSTED_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    HARDWARE_FIELD_NUMBER: _ClassVar[int]
    PROFILE_STATE_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    OUT_OF_MEMORY_FIELD_NUMBER: _ClassVar[int]
    UNCLEAN_ENDS_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    report_no: int
    nonce: str
    state: str
    result: str
    channel_seq: int
    rollout_id: str
    attempted: Installed
    installed: _containers.RepeatedCompositeFieldContainer[Installed]
    attack: str
    detail: str
    shadow: Shadow
    crashes: int
    trusted_time_ms: int
    versions: _containers.ScalarMap[str, int]
    profile: str
    hardware: str
    profile_state: ProfileState
    restarts: int
    out_of_memory: int
    unclean_ends: int
    runtime: str
    def __init__(self, device_id: _Optional[str] = ..., report_no: _Optional[int] = ..., nonce: _Optional[str] = ..., state: _Optional[str] = ..., result: _Optional[str] = ..., channel_seq: _Optional[int] = ..., rollout_id: _Optional[str] = ..., attempted: _Optional[_Union[Installed, _Mapping]] = ..., installed: _Optional[_Iterable[_Union[Installed, _Mapping]]] = ..., attack: _Optional[str] = ..., detail: _Optional[str] = ..., shadow: _Optional[_Union[Shadow, _Mapping]] = ..., crashes: _Optional[int] = ..., trusted_time_ms: _Optional[int] = ..., versions: _Optional[_Mapping[str, int]] = ..., profile: _Optional[str] = ..., hardware: _Optional[str] = ..., profile_state: _Optional[_Union[ProfileState, _Mapping]] = ..., restarts: _Optional[int] = ..., out_of_memory: _Optional[int] = ..., unclean_ends: _Optional[int] = ..., runtime: _Optional[str] = ...) -> None: ...

class ProfileState(_message.Message):
    __slots__ = ("number", "digest", "seq", "wanted", "outcome", "attack", "detail")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    ATTACK_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    number: int
    digest: str
    seq: int
    wanted: int
    outcome: str
    attack: str
    detail: str
    def __init__(self, number: _Optional[int] = ..., digest: _Optional[str] = ..., seq: _Optional[int] = ..., wanted: _Optional[int] = ..., outcome: _Optional[str] = ..., attack: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...

class ReportResponse(_message.Message):
    __slots__ = ("server_time_ms",)
    SERVER_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    server_time_ms: int
    def __init__(self, server_time_ms: _Optional[int] = ...) -> None: ...

class PermitOutcome(_message.Message):
    __slots__ = ("permit_id", "state", "refusal", "detail", "samples")
    PERMIT_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    permit_id: str
    state: str
    refusal: str
    detail: str
    samples: int
    def __init__(self, permit_id: _Optional[str] = ..., state: _Optional[str] = ..., refusal: _Optional[str] = ..., detail: _Optional[str] = ..., samples: _Optional[int] = ...) -> None: ...

class FetchPermitsRequest(_message.Message):
    __slots__ = ("device_id", "consent", "consent_changes", "outcomes")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    CONSENT_FIELD_NUMBER: _ClassVar[int]
    CONSENT_CHANGES_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    consent: bool
    consent_changes: int
    outcomes: _containers.RepeatedCompositeFieldContainer[PermitOutcome]
    def __init__(self, device_id: _Optional[str] = ..., consent: _Optional[bool] = ..., consent_changes: _Optional[int] = ..., outcomes: _Optional[_Iterable[_Union[PermitOutcome, _Mapping]]] = ...) -> None: ...

class HandedPermit(_message.Message):
    __slots__ = ("permit_id", "signed")
    PERMIT_ID_FIELD_NUMBER: _ClassVar[int]
    SIGNED_FIELD_NUMBER: _ClassVar[int]
    permit_id: str
    signed: bytes
    def __init__(self, permit_id: _Optional[str] = ..., signed: _Optional[bytes] = ...) -> None: ...

class FetchPermitsResponse(_message.Message):
    __slots__ = ("permits", "server_time_ms")
    PERMITS_FIELD_NUMBER: _ClassVar[int]
    SERVER_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    permits: _containers.RepeatedCompositeFieldContainer[HandedPermit]
    server_time_ms: int
    def __init__(self, permits: _Optional[_Iterable[_Union[HandedPermit, _Mapping]]] = ..., server_time_ms: _Optional[int] = ...) -> None: ...

class ClaimPermitRequest(_message.Message):
    __slots__ = ("device_id", "permit_id")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    PERMIT_ID_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    permit_id: str
    def __init__(self, device_id: _Optional[str] = ..., permit_id: _Optional[str] = ...) -> None: ...

class ClaimPermitResponse(_message.Message):
    __slots__ = ("granted", "reason", "server_time_ms")
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SERVER_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    granted: bool
    reason: str
    server_time_ms: int
    def __init__(self, granted: _Optional[bool] = ..., reason: _Optional[str] = ..., server_time_ms: _Optional[int] = ...) -> None: ...
