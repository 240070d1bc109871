"""Opens the source that the settings name. The only module of the package that reads the wall clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from edge_producer.clock import Clock, SteadyClock
from edge_producer.settings import EdgeSettings
from edge_producer.sources.live_windows import LiveWindows
from edge_producer.sources.mqtt_address import PORTS, MqttAddress, routes
from edge_producer.sources.opcua_address import OPCUA_PORTS, OpcUaAddress, channel_nodes
from edge_producer.sources.recorded_windows import PacedSource
from edge_producer.sources.samples import SampleSource
from edge_producer.sources.scenario import Scenario, load_scenario
from edge_producer.sources.simulate_source import SimulateSource
from edge_producer.sources.source_access import SourceAccess
from edge_producer.sources.source_feed import RestartWait, SourceFeed
from edge_producer.sources.sparkplug_address import SPARKPLUG_PORTS, SparkplugAddress, edge_nodes
from edge_producer.sources.stdin_source import InputLines, StdinSource
from schemas.errors import SourceError
from schemas.profile import Profile

KNOWN = ("simulate", "replay", "-", "mqtt://…", "mqtts://…", "opcua://…", "sparkplug://…", "sparkplugs://…")


def open_source(
    settings: EdgeSettings, profile: Profile, devices: Sequence[str], clock: Clock | None = None
) -> PacedSource | LiveWindows:
    """The source for some devices, starting now.

    Raises:
        SourceError: The source is unknown, or lacks what it needs; a file is not named, missing or malformed,
            or does not fit profile and devices. What may change later, such as a broker that cannot be
            reached, is no error here: a live source is opened again.
    """
    if settings.source == "replay":
        return _replay(settings, profile, devices, datetime.now(UTC))
    if settings.source == "simulate":
        scenario = Scenario(seed=settings.seed, start=datetime.now(UTC))
        if settings.scenario is not None:
            scenario = load_scenario(settings.scenario)
        return SimulateSource(profile, devices, scenario, _now, settings.duration_s)
    clock = clock or SteadyClock()
    opener, shown = _live(settings, profile, devices)
    restart = RestartWait(most_s=settings.source_retry_s)
    return LiveWindows(SourceFeed(opener, shown, clock, restart), profile, devices, clock)


def _now() -> datetime:
    return datetime.now(UTC)


def _live(
    settings: EdgeSettings, profile: Profile, devices: Sequence[str]
) -> tuple[Callable[[], SampleSource], str]:
    """What opens a live source, and its name without secrets."""
    scheme, _, _ = settings.source.partition("://")
    if settings.source == "-":
        if len(devices) != 1 and not profile.source.device_field:
            raise SourceError("several devices read one input: [source] device_field has to tell them apart")
        lines = InputLines()
        return lambda: StdinSource(profile, lines), "standard input"
    if scheme in PORTS:
        return _mqtt(settings, profile, devices)
    if scheme in OPCUA_PORTS:
        return _opcua(settings, profile, devices)
    if scheme in SPARKPLUG_PORTS:
        return _sparkplug(settings, profile, devices)
    # Few devices need it, and it reads what is installed.
    from edge_producer.sources.entry_point_sources import SourceRequest, load_source  # noqa: PLC0415

    open_own = load_source(scheme, KNOWN)
    _, _, address = settings.source.partition("://")
    request = SourceRequest(address, profile, tuple(devices), SourceAccess.of(settings))
    return lambda: open_own(request), scheme


def _mqtt(
    settings: EdgeSettings, profile: Profile, devices: Sequence[str]
) -> tuple[Callable[[], SampleSource], str]:
    address = MqttAddress.parse(settings.source)
    found = routes(address, profile, devices)
    try:
        from edge_producer.sources.mqtt_source import MqttSource  # noqa: PLC0415  (only where it is installed)
    except ModuleNotFoundError as exc:
        raise SourceError(f"source '{settings.source}' needs paho-mqtt: install edgeloop[edge,mqtt]") from exc
    access = SourceAccess.of(settings)
    return lambda: MqttSource(address, found, profile, access, settings.name), address.shown


def _opcua(
    settings: EdgeSettings, profile: Profile, devices: Sequence[str]
) -> tuple[Callable[[], SampleSource], str]:
    address = OpcUaAddress.parse(settings.source)
    nodes = channel_nodes(address, profile, devices)
    try:
        from edge_producer.sources.opcua_session import check_access  # noqa: PLC0415  (likewise)
        from edge_producer.sources.opcua_source import OpcUaSource  # noqa: PLC0415
    except ModuleNotFoundError as exc:
        raise SourceError(f"source '{settings.source}' needs asyncua: install edgeloop[edge,opcua]") from exc
    access = SourceAccess.of(settings)
    check_access(address, access)
    return lambda: OpcUaSource(address, nodes, profile, access, _now, settings.name), address.url


def _sparkplug(
    settings: EdgeSettings, profile: Profile, devices: Sequence[str]
) -> tuple[Callable[[], SampleSource], str]:
    address = SparkplugAddress.parse(settings.source)
    nodes = edge_nodes(address, profile, devices)
    try:
        from edge_producer.sources.sparkplug_source import SparkplugSource  # noqa: PLC0415  (likewise)
    except ModuleNotFoundError as exc:
        raise SourceError(f"source '{settings.source}' needs paho-mqtt: install edgeloop[edge,mqtt]") from exc
    access = SourceAccess.of(settings)
    return lambda: SparkplugSource(address, nodes, profile, access, _now, settings.name), address.shown


def _replay(settings: EdgeSettings, profile: Profile, devices: Sequence[str], now: datetime) -> PacedSource:
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
