"""Join bundle: the file that a person carries to a new device so that it can enrol."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from schemas.channel_documents import GroupName
from schemas.section import Name

_SINCE_0_3 = ("broker", "broker_tls", "namespace", "profile")
"""Fields that a device needs to begin with nothing but the bundle."""


class JoinBundle(BaseModel):
    """One JSON file. Secret until its token is used.

    Attributes:
        device_id: The token is bound to it.
        token: Single use.
        enrollment: host:port of the server-TLS listener.
        delivery: host:port of the mTLS listener.
        server_name: Name that the server's certificate must carry.
        ca_pem: Certificate authority of server and devices.
        root_json: Trusted TUF root metadata.
        group: Rollout group.
        hardware: Hardware class, checked against each artifact's signed ``custom``.
        families: Model families that the device runs.
        broker: host:port of Kafka, as the device reaches it; empty: the bundle does not say.
        broker_tls: Kafka wants mutual TLS there, with the device's certificate.
        namespace: Prefix of topics.
        profile: Profile that the device runs, as an object; None: the bundle does not carry it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device_id: str
    token: str
    enrollment: str
    delivery: str
    server_name: str = "localhost"
    ca_pem: str
    root_json: str
    group: GroupName
    hardware: str
    families: tuple[Name, ...]
    broker: str = ""
    broker_tls: bool = False
    namespace: str = ""
    profile: dict[str, Any] | None = None

    @model_serializer(mode="wrap")
    def _without_what_is_not_said(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Release 0.2.0 refuses keys that it does not know, so they come only where they say something."""
        return {name: value for name, value in write(self).items() if name not in _SINCE_0_3 or value}
