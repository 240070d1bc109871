"""Join bundle: the file that a person carries to a new device so that it can enrol."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from schemas.channel_documents import GroupName
from schemas.section import Name


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
