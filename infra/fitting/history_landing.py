"""Lands the rows of a history in the lake, so that a first model is made from a pinned cut as any other is.

Rows of spans left out stay away, and so do faulty ones unless a signed label in the lake calls them so. A
history that comes twice lands once; another one of the same devices takes its place.
"""

from __future__ import annotations

import hashlib
import itertools
from contextlib import closing
from datetime import datetime

import numpy as np
import pyarrow as pa

from edge_producer.bundle import BUNDLES, GENERIC, open_bundle
from feature_store import connect, duck
from feature_store.append import append
from feature_store.cut_store import CutStore
from feature_store.device_registry import DeviceRecord, DeviceRegistry
from feature_store.lake import Lake
from feature_store.lake_registry import ProfileRegistry
from feature_store.replay_registry import ReplayRegistry
from model_service import first_model
from schemas.boot_ids import BOOT_BITS
from schemas.instants import utc_now
from schemas.profile import Profile
from schemas.row_schemas import Reason, TimeQuality
from schemas.tables import telemetry_table

TASK = "history"
"""Task under which the rows of histories are committed."""
SITE = GROUP = "history"
HARDWARE = "recording"
NO_PARTITION = -1
REPLACED = "another fit of the device's history"


def land_history(
    lake: Lake,
    profile: Profile,
    judged: first_model.JudgedHistory,
    now: datetime,
    labelled: np.ndarray | None = None,
) -> int:
    """Register the profile and the history's devices, and land its rows in one commit.

    Args:
        lake: To land in.
        profile: Of the history's devices.
        judged: The history.
        now: Becomes ``known_at``.
        labelled: Faulty rows that a label in the lake calls so; None: none. Other faulty rows stay away.

    Returns:
        Rows that landed; 0: they were there already.
    """
    register_history(lake, profile, judged.devices)
    kept = ~judged.faulty & ~judged.excluded
    if labelled is not None:
        kept |= labelled & ~judged.excluded
    table, registry = telemetry_table(profile).name, ReplayRegistry(lake)
    retired, before = registry.retired(), _earlier(lake, table, judged.devices)
    boot_id = _boot_id(judged, kept, {boot for _, boot in retired})
    landed = 0
    if not any(boot == boot_id for _, boot in before):
        append(lake, CutStore(lake), TASK, lambda n: {table: _rows(profile, judged, kept, boot_id, now, n)})
        landed = int(kept.sum())
    registry.retire({b for b in before if b[1] != boot_id}, profile.name, REPLACED)
    return landed


def register_history(lake: Lake, profile: Profile, devices: tuple[str, ...]) -> None:
    """Register a history's profile, and its devices that are not known yet; they have no key."""
    lake.ensure_fixed_tables()
    ProfileRegistry(lake).register(profile)
    registry = DeviceRegistry(lake)
    known = registry.as_of(utc_now())
    registry.register(
        [
            DeviceRecord(device, profile.name, SITE, GROUP, HARDWARE, "", "")
            for device in devices
            if device not in known
        ]
    )


def _boot_id(judged: first_model.JudgedHistory, kept: np.ndarray, retired: set[int]) -> int:
    """One id for the whole history, by its content: a repetition is recognised. Retired ids stay retired."""
    digest = hashlib.sha256("\0".join(judged.devices).encode())
    for values in (judged.device, judged.end_us, kept, np.nan_to_num(judged.features)):
        digest.update(np.ascontiguousarray(values).tobytes())
    for attempt in itertools.count():
        found = hashlib.sha256(digest.digest() + attempt.to_bytes(8, "big")).digest()
        boot_id = int.from_bytes(found[:8], "big") % (1 << BOOT_BITS)
        if boot_id not in retired:
            break
    return boot_id


def _earlier(lake: Lake, table: str, devices: tuple[str, ...]) -> set[tuple[str, int]]:
    """Histories of these devices that landed before and still count."""
    named = ", ".join(duck.text(device) for device in devices)
    with closing(connect(lake.root, comments=False)) as connection:
        query = (
            f"SELECT DISTINCT device_id, boot_id FROM {duck.name(table)} "  # noqa: S608  (quoted)
            f"WHERE _partition = {NO_PARTITION} AND device_id IN ({named})"
        )
        found = duck.query(connection, query).to_pylist()
    return {(row["device_id"], row["boot_id"]) for row in found}


def _rows(
    profile: Profile,
    judged: first_model.JudgedHistory,
    kept: np.ndarray,
    boot_id: int,
    now: datetime,
    n: int,
) -> pa.Table:
    """Rows of the telemetry table; the score is null, for no device gave one."""
    at = np.flatnonzero(kept)
    device = np.array(judged.devices, dtype=object)[judged.device[at]]
    columns = {
        "device_id": device,
        "seq": at,
        "event_time": judged.end_us[at],
        "_row": np.arange(len(at)),
        **{
            name: np.where(np.isfinite(judged.features[at, i]), judged.features[at, i], np.nan)
            for i, name in enumerate(profile.feature_names)
        },
    }
    same = {
        "boot_id": boot_id,
        "mono_ns": 0,
        "time_quality": int(TimeQuality.RECORDED),
        "decision": profile.decision.idle,
        "reasons": int(Reason.SAMPLE),
        "sample_p": 1.0,
        "inclusion_probability": 1.0,
        "model_version": open_bundle(BUNDLES / GENERIC).manifest.version,
        "featureset": profile.featureset,
        "time_suspect": False,
        "known_at": now,
        "_partition": NO_PARTITION,
        "_offset": n,
    }
    schema = telemetry_table(profile).schema
    arrays = []
    for field in schema:
        if field.name in same:
            arrays.append(pa.repeat(pa.scalar(same[field.name], field.type), len(at)))
        elif field.name not in columns:
            arrays.append(pa.nulls(len(at), field.type))
        else:
            values = columns[field.name]
            floating = pa.types.is_floating(field.type)
            arrays.append(pa.array(values, from_pandas=floating).cast(field.type))
    return pa.table(arrays, schema=schema)
