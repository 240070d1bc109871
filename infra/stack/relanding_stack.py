"""Lands damaged data files again from the log of the stack that is up."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from feature_store.lake import Lake
from feature_store.lake_registry import DeviceRegistry, ProfileRegistry
from feature_store.version_store import VersionStore
from infra.settings import StackSettings
from infra.stack.stack_file import is_held, read_stack

if TYPE_CHECKING:  # the jobs import what is heavy
    from feature_store.lake_finding import Restore

JOBS = "edgeloop.jobs"


def relander(settings: StackSettings) -> Restore | None:
    """Restores a file by running the jobs again over its messages; None: no broker is up."""
    stack = read_stack(settings.state_dir) if is_held(settings.state_dir) else None
    address = stack.bootstrap_servers if stack is not None else settings.broker
    if not address:
        return None
    from stream_processors.engine.kafka_log import KafkaLog  # noqa: PLC0415  (heavy, and seldom needed)
    from stream_processors.engine.pipeline import in_order  # noqa: PLC0415
    from stream_processors.engine.relanding import Relander, reading  # noqa: PLC0415
    from stream_processors.ingest.lake_directory import LakeDirectory  # noqa: PLC0415

    lake = Lake(settings.lake_root)
    versions = VersionStore(lake.root)
    directory = LakeDirectory(ProfileRegistry(lake), DeviceRegistry(lake), versions=versions)
    jobs = in_order([point.load()(directory) for point in entry_points(group=JOBS)])
    namespace = stack.namespace if stack is not None else settings.namespace
    return Relander(lake, jobs, reading(KafkaLog(address, namespace, "lake-check"))).restore
