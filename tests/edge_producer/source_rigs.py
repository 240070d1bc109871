"""Every kind of source behind one face: it is given a script of rows, and its windows are read."""

from __future__ import annotations

import json
import os
import queue
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from edge_producer.clock import SteadyClock
from edge_producer.settings import EdgeSettings
from edge_producer.sources import ReplaySource, open_source
from edge_producer.sources.live_windows import LiveWindows
from edge_producer.sources.payloads import PayloadReader
from edge_producer.sources.samples import Sample, SampleSource
from edge_producer.sources.source_feed import RestartWait, SourceFeed
from edge_producer.sources.stdin_source import InputLines, StdinSource
from edge_producer.status_file import read_status
from edge_producer.window import SourceWait, Window, WindowSource
from schemas.profile import Profile
from tests.simulators.mqtt_broker import MqttBroker
from tests.simulators.opcua_server import GOOD, UNCERTAIN, OpcUaServer, Write
from tests.simulators.sparkplug_edge import SparkplugEdge
from tests.simulators.tcp_relay import TcpRelay
from tests.waiting import wait_until

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
STEP_S = 10.0
"""So long that no pause of the machine closes an instant of a test."""
AT_ONCE = RestartWait(first_s=0.001, most_s=0.01)
Row = tuple[float, Any, Any] | str
"""Steps since the start, heat and load; or a text that is no row at all."""


def profile(window: int = 2, hop: int = 1, **sections: Any) -> Profile:
    """Two channels at one sample in ten seconds; a value is too old for the next instant."""
    given = {
        "name": "plant",
        "channels": [
            {"name": "heat", "unit": "degC", "min": -50, "max": 150},
            {"name": "load", "unit": "A", "min": 0, "max": 50},
        ],
        "sampling": {"rate_hz": 1 / STEP_S, "window_samples": window, "hop_samples": hop},
        "features": {"set": "plant", "compute": [{"channel": "heat", "kinds": ["mean"]}]},
        "drift": {"window_s": 300.0},
        "replay": {"time_column": "t", "time_format": "epoch_ms"},
        "source": {"time_field": "t", "time_format": "epoch_ms"},
        "align": {"max_age_s": STEP_S * 0.9, "wait_s": 0.0},
    }
    for name, section in sections.items():
        given[name] = {**given.get(name, {}), **section}
    return Profile.model_validate(given)


def at(step: float) -> datetime:
    return START + timedelta(seconds=step * STEP_S)


def ms(step: float) -> int:
    return round(at(step).timestamp() * 1000)


def table(rows: Iterable[Row]) -> str:
    """The rows as CSV."""
    lines = [r if isinstance(r, str) else f"{ms(r[0])},{r[1]},{r[2]}" for r in rows]
    return "\n".join(["t,heat,load", *lines]) + "\n"


def json_of(row: Row) -> str:
    return row if isinstance(row, str) else json.dumps({"t": ms(row[0]), "heat": row[1], "load": row[2]})


def sensed(
    source: WindowSource, most: int | None = None, until: Callable[[], object] = lambda: False
) -> list[Window]:
    """The windows of a source: all, or the first so many, or those until something holds."""
    windows = []
    with closing(source.windows()) as items:
        for item in items:
            if isinstance(item, Window):
                windows.append(item)
            if isinstance(item, SourceWait):
                item.wait(min(item.most_s, 0.1))
            if len(windows) == most or until():
                break
    return windows


class Given:
    """A user's own source: payloads from a list; ``Exception`` in it is raised, an ``Event`` waited for."""

    def __init__(self, used: Profile, items: Iterator[Any]) -> None:
        self._reader = PayloadReader(used)
        self._items = items
        self.given = 0

    @property
    def counts(self) -> Mapping[str, int]:
        return self._reader.counts

    def samples(self) -> Iterator[Sample]:
        for item in self._items:
            if isinstance(item, BaseException):
                raise item
            if isinstance(item, threading.Event):
                item.wait()
                continue
            for sample in self._reader.payload(json_of(item).encode()):
                self.given += 1
                yield sample

    def close(self) -> None:
        pass


def settings(folder: Path, **given: Any) -> EdgeSettings:
    """Of one device that reads its standard input and reaches no broker."""
    return EdgeSettings(
        state_dir=folder,
        profile="plant",
        devices=("d1",),
        bootstrap_servers="127.0.0.1:1",
        drain_timeout_s=0.1,
        stop_timeout_s=0.1,
        source="-",
        **given,
    )


def live(
    open_source: Callable[[], SampleSource],
    used: Profile,
    devices: Sequence[str] = ("d1",),
    capacity: int = 4096,
) -> LiveWindows:
    clock = SteadyClock()
    return LiveWindows(SourceFeed(open_source, "test", clock, AT_ONCE, capacity), used, devices, clock)


class Pipe:
    """A pipe whose writer is a thread, as another program would be."""

    def __init__(self, data: bytes) -> None:
        self.reader, self._writer = os.pipe()
        self.written = 0
        self._thread = threading.Thread(target=self._write, args=(data,), daemon=True)
        self._thread.start()

    def _write(self, data: bytes) -> None:
        try:
            for first in range(0, len(data), 4096):
                self.written += os.write(self._writer, data[first : first + 4096])
        except BrokenPipeError:
            pass
        os.close(self._writer)


def stdin(text: str, used: Profile, devices: Sequence[str] = ("d1",)) -> LiveWindows:
    lines = InputLines(Pipe(text.encode()).reader)
    return live(lambda: StdinSource(used, lines), used, devices)


def replay(rows: Sequence[Row], used: Profile, folder: Path) -> WindowSource:
    (folder / "r.csv").write_text(table(rows))
    return ReplaySource(folder / "r.csv", used, "d1", START)


def opened(kind: str, rows: Sequence[Row], used: Profile, folder: Path) -> WindowSource:
    """A source of the kind that gives these rows and ends."""
    if kind == "replay":
        return replay(rows, used, folder)
    if kind == "stdin_table":
        return stdin(table(rows), used)
    if kind == "stdin_json":
        return stdin("".join(json_of(r) + "\n" for r in rows), used)
    source = Given(used, iter(rows))
    return live(lambda: source, used)


class Published:
    """A live source whose rows are given to its other end once it has subscribed; it ends behind them.

    Args:
        live: The source.
        give: Gives all rows, and behind them one thing more.
        over: What is counted once that has come.
        ready: What is counted, and how often, once the source listens.
    """

    def __init__(
        self,
        live: LiveWindows,
        give: Callable[[], None],
        over: tuple[str, int],
        ready: tuple[str, int] = ("subscribed", 1),
    ) -> None:
        self._live, self._give, self._over, self._ready = live, give, over, ready

    @property
    def counts(self) -> Mapping[str, int]:
        return self._live.counts

    def windows(self) -> Iterator[Any]:
        with closing(self._live.windows()) as items:
            given = over = False
            for item in items:
                yield item
                if not given and self._counted(*self._ready):
                    given = True
                    self._give()
                if isinstance(item, SourceWait):
                    if over:
                        return
                    over = self._counted(*self._over)

    def _counted(self, name: str, least: int) -> bool:
        return self.counts[name] >= least


def opened_live(address: str, used: Profile, folder: Path, **given: Any) -> LiveWindows:
    """What the settings of one device open."""
    settings = EdgeSettings(
        state_dir=folder, profile="plant", devices=("d1",), source=address, source_retry_s=0.2, **given
    )
    found = open_source(settings, used, ("d1",))
    assert isinstance(found, LiveWindows)
    return found


def published(broker: MqttBroker, rows: Sequence[Row], used: Profile, folder: Path) -> Published:
    """An MQTT source."""
    topic = f"plant/{secrets.token_hex(4)}"

    def give() -> None:
        with broker.publisher() as publisher:
            for row in rows:
                publisher.give(topic, json_of(row))
            publisher.give(topic, '{"nothing": "for us"}')

    address = f"{broker.address}/{topic}?version={broker.version}"
    return Published(opened_live(address, used, folder), give, ("unmapped", 1))


def writes_of(prefix: str, row: Row) -> list[Write]:
    """What a row is at an OPC UA server; a text is something that is no value, or a value without a time."""
    heat, load = f"{prefix}.heat", f"{prefix}.load"
    if isinstance(row, str):
        return [(heat, 99, None, GOOD)] if "soon" in row else [(heat, list(row.encode()), 1, GOOD)]
    us = 1000 * ms(row[0])
    return [(heat, row[1], us, GOOD), (load, row[2], us, GOOD)]


def reported(server: OpcUaServer, prefix: str, rows: Sequence[Row], used: Profile, folder: Path) -> Published:
    """An OPC UA source."""

    def give() -> None:
        last = max(row[0] for row in rows[-1:] if not isinstance(row, str))
        end: Write = (f"{prefix}.load", 0, 1000 * ms(last), UNCERTAIN)
        server.write(*(write for row in rows for write in writes_of(prefix, row)), end)

    return Published(opened_live(server.address(prefix), used, folder), give, ("uncertain", 1))


def tell(edge: SparkplugEdge, row: Row) -> None:
    """Tell a row as an edge node; a text is something that is no message, or a value without a time."""
    if not isinstance(row, str):
        edge.data(("heat", row[1], ms(row[0])), ("load", row[2], ms(row[0])))
    elif "soon" in row:
        edge.data(("heat", 99, None), stamped=False)
    else:
        edge.raw(row.encode())


def told(broker: MqttBroker, rows: Sequence[Row], used: Profile, folder: Path) -> Published:
    """A Sparkplug source."""
    edge = SparkplugEdge(broker, secrets.token_hex(4), ms(0))

    def give() -> None:
        for row in rows:
            tell(edge, row)
        edge.data(("load", None, ms(0)))
        edge.close()

    return Published(opened_live(edge.address(broker), used, folder), give, ("null", 3), ("null", 2))


class Watched:
    """A live source whose windows a thread reads until the test ends."""

    def __init__(self, source: LiveWindows) -> None:
        self.source = source
        self.windows: list[Window] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        with closing(self.source.windows()) as items:
            for item in items:
                if isinstance(item, Window):
                    self.windows.append(item)
                if isinstance(item, SourceWait):
                    item.wait(min(item.most_s, 0.1))
                if self._stop.is_set():
                    return

    def count(self, name: str) -> int:
        return self.source.counts[name]

    def until(self, name: str, at_least: int = 1) -> None:
        """Wait until something was counted so often."""
        wait_until(lambda: self.count(name) >= at_least, what=f"{at_least} {name} in {self.source.counts}")

    def until_error(self, part: str) -> None:
        wait_until(lambda: part in self.source.state["error"], what=f"{part} in {self.source.state}")

    def newest(self) -> list[float]:
        """The newest values: of each channel the last of the newest window."""
        return self.windows[-1].samples[-1].tolist() if self.windows else []

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()


class Breakable:
    """A live source whose other end a test cuts; rows go to whoever listens now.

    Args:
        source: It.
        give: Gives rows.
        cut: Cuts the source off.
        mend: Lets it come back.
        subscribes: Rows wait until it has.
    """

    def __init__(
        self,
        source: LiveWindows,
        give: Callable[[Sequence[Row]], None],
        cut: Callable[[], None],
        mend: Callable[[], None] = lambda: None,
        *,
        subscribes: bool = True,
    ) -> None:
        self.source, self._subscribes = source, subscribes
        self._give, self._cut, self._mend = give, cut, mend
        self._subscribed = 0

    def gives(self, *rows: Row) -> None:
        if self._subscribes:
            self._subscribed += 1
            wait_until(lambda: self.source.counts["subscribed"] >= self._subscribed, what="a subscription")
        self._give(rows)

    def breaks(self) -> None:
        """Cut the source off; it can come back at once."""
        self._cut()
        wait_until(lambda: self.source.state["error"] or self.source.state["restarts"], what="a loss")
        self._mend()


@contextmanager
def breakable(
    kind: str,
    folder: Path,
    brokers: Callable[[str], MqttBroker],
    place: Callable[[], tuple[OpcUaServer, str]],
) -> Iterator[Breakable]:
    """A source of the kind; one of MQTT has a broker of its own, which is stopped."""
    used = profile()
    if kind == "own":
        rows: queue.Queue[Any] = queue.Queue()
        source = live(lambda: Given(used, iter(rows.get, None)), used)

        def put(given: Sequence[Row]) -> None:
            for row in given:
                rows.put(row)

        ended = partial(rows.put, None)
        made = Breakable(source, put, partial(rows.put, OSError("unplugged")), subscribes=False)
    elif kind == "opcua":
        made, ended = _cut_from_server(*place(), used, folder)
    elif kind == "sparkplug":
        made, ended = _cut_from_edge(brokers("3.1.1"), used, folder)
    else:
        made, ended = _cut_from_broker(MqttBroker(folder, kind.removeprefix("mqtt_")), used, folder)
    try:
        yield made
    finally:
        ended()


Cut = tuple[Breakable, Callable[[], object]]
"""A source, and what ends its other end."""


def _cut_from_server(server: OpcUaServer, prefix: str, used: Profile, folder: Path) -> Cut:
    relay = TcpRelay(server.port)
    source = opened_live(server.address(prefix, relay.port), used, folder)

    def give(rows: Sequence[Row]) -> None:
        server.write(*(write for row in rows for write in writes_of(prefix, row)))

    return Breakable(source, give, relay.cut, relay.mend), relay.cut


def _cut_from_edge(broker: MqttBroker, used: Profile, folder: Path) -> Cut:
    edge, relay = SparkplugEdge(broker, secrets.token_hex(4), ms(0)), TcpRelay(broker.port)
    source = opened_live(edge.address(broker, relay.port), used, folder)

    def give(rows: Sequence[Row]) -> None:
        wait_until(lambda: source.counts["births"] >= 2 * source.counts["subscribed"], what="births")
        for row in rows:
            tell(edge, row)

    def end() -> None:
        relay.cut()
        edge.close()

    return Breakable(source, give, relay.cut, relay.mend), end


def _cut_from_broker(broker: MqttBroker, used: Profile, folder: Path) -> Cut:
    broker.start()
    source = opened_live(f"{broker.address}/lost?version={broker.version}", used, folder)

    def give(rows: Sequence[Row]) -> None:
        with broker.publisher() as publisher:
            for row in rows:
                publisher.give("lost", json_of(row))

    return Breakable(source, give, broker.stop, broker.start), broker.stop


@contextmanager
def device_command(folder: Path, source: str, mapped: str) -> Iterator[Callable[[str], int]]:
    """Run a device by its own command with a profile of one channel; gives what it counts of its source."""
    (folder / "plant.toml").write_text(
        f"""
name = "plant"
drift = {{ window_s = 300.0 }}
channels = [{{ name = "heat", unit = "degC", min = -50, max = 150 }}]
features = {{ set = "plant", compute = [{{ channel = "heat", kinds = ["mean"] }}] }}
sampling = {{ rate_hz = 20.0, window_samples = 2, hop_samples = 2 }}
{mapped}
"""
    )
    argv = [sys.executable, "-m", "edge_producer", "run", "--devices", "pump-7", "--stop-timeout-s", "0.1"]
    argv += ["--profile", str(folder / "plant.toml"), "--state-dir", str(folder / "edge")]
    argv += ["--source", source, "--bootstrap-servers", "127.0.0.1:1"]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE)

    def counted(name: str) -> int:
        assert process.poll() is None
        found = (read_status(folder / "edge" / "status.json") or {}).get("source", {}).get(name, 0)
        return int(found)

    try:
        yield counted
    finally:
        process.terminate()
        _, log = process.communicate(timeout=60)
    assert process.returncode == 0, log.decode()
