"""Computes one configuration from a pinned cut; the trainer and the gate do it alike, each by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from feature_store import connect, duck
from model_service.limited_plug_ins import LimitedPlugIns
from model_service.training.config_interface import TRAINERS, ComputedConfig, ConfigInputs
from model_service.training.datasets import newest_row
from model_service.training.lineage import code_version
from schemas.config_manifest import ConfigBundle, ConfigLineage, ConfigManifest
from schemas.config_spec import ConfigSpec
from schemas.errors import BundleError, DatasetError
from schemas.profile import Profile
from schemas.tables import SUMMARIES, telemetry_table_name

SEED = 1


class NotYetError(DatasetError):
    """There is too little to compute from, which is no failure: it is tried again."""


@dataclass(frozen=True)
class ConfigPlan:
    """Everything that a computation depends on besides the profile and the lake.

    Attributes:
        pin: Name of the pinned cut.
        cut: Its id.
        known_at: When it was made.
        computed_at: Instant that the configuration counts as computed at.
        champion: Version of the group's configuration before it; empty: none.
        major: Its number within the family.
    """

    family: str
    group: str
    pin: str
    cut: int
    known_at: datetime
    computed_at: datetime
    champion: str
    major: int

    @classmethod
    def of(cls, manifest: ConfigManifest, major: int) -> ConfigPlan:
        """The plan that a manifest states."""
        lineage = manifest.lineage
        return cls(
            manifest.family,
            manifest.group,
            lineage.pin,
            lineage.cut,
            lineage.known_at,
            lineage.computed_at,
            lineage.champion,
            major,
        )


def group_devices(connection: duck.Connection, profile: str, group: str) -> dict[str, str]:
    """Site by device id: active devices of a group that run the profile, as of the connection's cut."""
    query = f"""SELECT device_id, site FROM fleet
        WHERE active AND profile = {duck.text(profile)} AND "group" = {duck.text(group)}
        ORDER BY device_id"""  # noqa: S608  (quoted)
    return dict(connection.execute(query).fetchall())


@dataclass(frozen=True)
class CutQuery:
    """Rows of a table in a pinned cut, read when it is called, in whatever process that is.

    Attributes:
        table: Whose files are checked first.
    """

    lake_root: Path
    pin: str
    table: str
    query: str

    def __call__(self) -> pa.Table:
        """The rows."""
        with closing(connect(self.lake_root, self.pin, verify=(self.table,), comments=False)) as connection:
            return duck.query(connection, self.query)


@contextmanager
def config_inputs(
    lake_root: Path, profile: Profile, spec: ConfigSpec, plan: ConfigPlan, before: Mapping[str, Any]
) -> Iterator[ConfigInputs]:
    """The inputs of a computation, as long as the cut is open.

    Args:
        lake_root: The lake.
        profile: Of the devices.
        spec: The family.
        plan: Names cut and group.
        before: Parameters of the configuration before it.

    Raises:
        NotYetError: The lake has no row of the profile.
        DatasetError: The group has no active device of the profile in that cut.
        QueryError: The pinned cut is gone.
    """
    table = telemetry_table_name(profile.name)
    with closing(connect(lake_root, plan.pin, verify=(table, SUMMARIES.name), comments=False)) as connection:
        devices = group_devices(connection, profile.name, plan.group)
        if not devices:
            raise DatasetError(f"group {plan.group} has no active device of profile {profile.name}")
        newest = newest_row(connection, profile)
        if newest is None:
            raise NotYetError(f"the lake holds no row of profile {profile.name} yet")
        since = newest - timedelta(seconds=spec.window_s)
        named = ", ".join(duck.text(d) for d in devices)

        rows = CutQuery(
            lake_root,
            plan.pin,
            table,
            f"""SELECT * FROM {duck.name(table)} WHERE NOT time_suspect AND device_id IN ({named})
                AND event_time BETWEEN {_instant(since)} AND {_instant(newest)}
                ORDER BY device_id, event_time, boot_id, seq""",  # noqa: S608  (quoted)
        )
        summaries = CutQuery(
            lake_root,
            plan.pin,
            SUMMARIES.name,
            f"""SELECT * FROM summaries WHERE device_id IN ({named})
                AND period_start BETWEEN {_instant(since)} AND {_instant(newest)}
                ORDER BY device_id, period_start, feature, boot_id, model_version, part""",  # noqa: S608
        )

        yield ConfigInputs(
            profile=profile,
            spec=spec,
            group=plan.group,
            devices=devices,
            event_from=since,
            event_to=newest,
            earliest=plan.computed_at + timedelta(seconds=spec.valid_after_s),
            seed=SEED,
            before=before,
            rows=rows,
            summaries=summaries,
        )


def computed_bundle(inputs: ConfigInputs, plan: ConfigPlan, plug_ins: LimitedPlugIns) -> ConfigBundle:
    """The bundle that the profile's trainer computes; a repetition gives the same bytes.

    Raises:
        NotYetError: The trainer waits for more.
        DatasetError: The trainer is not installed, raises, takes more than it may, or gives something else
            than parameters.
        BundleError: Its parameters are not as the profile's schema says.
    """
    spec, profile = inputs.spec, inputs.profile
    try:
        given = plug_ins.call(TRAINERS, spec.trainer, f"profile {profile.name}", ComputedConfig, inputs)
    except DatasetError as exc:
        raise DatasetError(f"config trainer {spec.trainer}: {exc}") from exc
    if given["waits"]:
        raise NotYetError(given["waits"])
    at = given["valid_from"]
    found = ComputedConfig(given["parameters"], None if at is None else datetime.fromisoformat(at))
    manifest = ConfigManifest(
        name=spec.family,
        version=f"{spec.family}-0.00000000",
        profile=profile.name,
        group=plan.group,
        unit=spec.unit,
        parameters=spec.parameters,
        valid_from=_valid_from(found, inputs),
        lead_s=spec.lead_s,
        trainer=spec.trainer,
        lineage=_lineage(inputs, plan),
        files={},
    )
    bundle = ConfigBundle.made(manifest, found.parameters, plan.major)
    unknown = {d for s in spec.parameters if s.each == "device" for d in bundle.values[s.name]} - set(
        inputs.devices
    )
    if unknown:
        raise BundleError(
            f"it has tables for devices that the group has not: {', '.join(sorted(unknown)[:5])}"
        )
    return bundle


def same_parameters(bundle: ConfigBundle, before: Mapping[str, Any]) -> bool:
    """Whether nothing is new in it."""
    return dict(bundle.values) == dict(before)


def as_known(plan: ConfigPlan, cut: int, known_at: datetime) -> ConfigPlan:
    """The plan with a cut as somebody read it himself."""
    return replace(plan, cut=cut, known_at=known_at)


def _valid_from(found: ComputedConfig, inputs: ConfigInputs) -> datetime:
    if found.valid_from is None:
        return inputs.earliest
    if found.valid_from.tzinfo is None:
        raise DatasetError(f"config trainer {inputs.spec.trainer}: valid_from has no time zone")
    return max(found.valid_from, inputs.earliest)


def _lineage(inputs: ConfigInputs, plan: ConfigPlan) -> ConfigLineage:
    return ConfigLineage(
        cut=plan.cut,
        pin=plan.pin,
        known_at=plan.known_at,
        event_from=inputs.event_from,
        event_to=inputs.event_to,
        computed_at=plan.computed_at,
        champion=plan.champion,
        devices=len(inputs.devices),
        seed=inputs.seed,
        code=code_version(),
    )


def _instant(at: datetime) -> str:
    return f"TIMESTAMPTZ {duck.text(at.isoformat())}"
