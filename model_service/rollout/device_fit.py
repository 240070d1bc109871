"""Which devices a model may be offered to: those of a hardware class and runtime that it is signed for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, select

from model_service.registry.candidates import manifest_of
from model_service.registry.registry_tables import device_status, reports
from model_service.rollout.observed import GroupMember
from schemas.proto.delivery_pb2 import ReportRequest
from schemas.runtime_range import allows


@dataclass(frozen=True)
class ModelTerms:
    """What a model is signed for.

    Attributes:
        hardware: Hardware classes; empty: any.
        runtime: Range of versions of onnxruntime; empty: any.
    """

    hardware: tuple[str, ...] = ()
    runtime: str = ""

    def against(self, hardware: str, runtime: str) -> str:
        """Why a device cannot take the model; empty: it can. A runtime that was never reported is tried."""
        if self.hardware and hardware not in self.hardware:
            return f"hardware {hardware}: it runs on {', '.join(self.hardware)}"
        if runtime and not allows(self.runtime, runtime):
            return f"runtime {runtime}: it runs on {self.runtime}"
        return ""


def terms_of(connection: Connection, version: str) -> ModelTerms:
    """What a candidate is signed for, by its manifest; a version of the factory runs anywhere."""
    stated = manifest_of(connection, version)
    return ModelTerms(tuple(stated.get("hardware", ())), stated.get("runtime", ""))


def unfit(connection: Connection, found: Mapping[str, GroupMember], version: str) -> dict[str, str]:
    """By device id, why a member cannot take a version."""
    terms = terms_of(connection, version)
    if terms == ModelTerms():
        return {}
    runtimes = _runtimes(connection) if terms.runtime else {}
    reasons = {name: terms.against(m.hardware, runtimes.get(name, "")) for name, m in found.items()}
    return {name: reason for name, reason in reasons.items() if reason}


def _runtimes(connection: Connection) -> dict[str, str]:
    """Version of the runtime by device id, from each device's newest report."""
    rows = connection.execute(
        select(device_status.c.device_id, reports.c.body).join(
            reports, reports.c.id == device_status.c.report_id
        )
    )
    stated = {name: ReportRequest.FromString(body).runtime for name, body in rows}
    return {name: runtime.removeprefix("onnxruntime ") for name, runtime in stated.items() if runtime}
