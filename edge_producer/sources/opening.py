"""Opens the source that the settings name. The only module of the package that reads the clock."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from edge_producer.settings import EdgeSettings
from edge_producer.sources.scenario import Scenario, load_scenario
from edge_producer.sources.simulate_source import SimulateSource
from schemas.errors import SourceError
from schemas.profile import Profile

if TYPE_CHECKING:
    from edge_producer.sources.canonical_recording import CanonicalSource
    from edge_producer.sources.replay_source import ReplaySource


def open_source(
    settings: EdgeSettings, profile: Profile, devices: Sequence[str]
) -> SimulateSource | ReplaySource | CanonicalSource:
    """The source for some devices, starting now.

    Raises:
        SourceError: A file is not named, missing or malformed, or does not fit profile and devices.
    """
    if settings.source == "replay":
        return _replay(settings, profile, devices, datetime.now(UTC))
    scenario = Scenario(seed=settings.seed, start=datetime.now(UTC))
    if settings.scenario is not None:
        scenario = load_scenario(settings.scenario)
    return SimulateSource(profile, devices, scenario, _now, settings.duration_s)


def _now() -> datetime:
    return datetime.now(UTC)


def _replay(
    settings: EdgeSettings, profile: Profile, devices: Sequence[str], now: datetime
) -> ReplaySource | CanonicalSource:
    # Heavy: recordings are read with pyarrow, which a device with sensors does without.
    from edge_producer.sources.canonical_recording import CanonicalSource, is_canonical  # noqa: PLC0415
    from edge_producer.sources.replay_source import ReplaySource  # noqa: PLC0415

    if settings.recording is None:
        raise SourceError("source 'replay' needs a recording: set EDGE_RECORDING to a CSV or Parquet file")
    if is_canonical(settings.recording):
        return CanonicalSource(settings.recording, profile, devices)
    if len(devices) != 1:
        raise SourceError(f"a recording belongs to one device, but {len(devices)} are configured: name one")
    return ReplaySource(settings.recording, profile, devices[0], now)
