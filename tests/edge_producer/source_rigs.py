"""Every kind of source behind one face: it is given a script of rows, and its windows are read."""

from __future__ import annotations

import json
import os
import queue
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
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
from edge_producer.window import SourceWait, Window, WindowSource
from schemas.profile import Profile
from tests.simulators.mqtt_broker import MqttBroker
from tests.simulators.opcua_server import GOOD, UNCERTAIN, OpcUaServer, Write
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
    """

    def __init__(self, live: LiveWindows, give: Callable[[], None], over: str) -> None:
        self._live, self._give, self._over = live, give, over

    @property
    def counts(self) -> Mapping[str, int]:
        return self._live.counts

    def windows(self) -> Iterator[Any]:
        with closing(self._live.windows()) as items:
            given = over = False
            for item in items:
                yield item
                if not given and self.counts["subscribed"]:
                    given = True
                    self._give()
                if isinstance(item, SourceWait):
                    if over:
                        return
                    over = self.counts[self._over] > 0


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
    return Published(opened_live(address, used, folder), give, "unmapped")


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

    return Published(opened_live(server.address(prefix), used, folder), give, "uncertain")


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
        give: Gives a row.
        cut: Cuts the source off.
        mend: Lets it come back.
    """

    def __init__(
        self,
        source: LiveWindows,
        give: Callable[[Row], None],
        cut: Callable[[], None],
        mend: Callable[[], None] = lambda: None,
    ) -> None:
        self.source = source
        self._give, self._cut, self._mend = give, cut, mend
        self._subscribed = 0

    def gives(self, *rows: Row) -> None:
        if "subscribed" in self.source.counts or self._subscribed:
            self._subscribed += 1
            wait_until(lambda: self.source.counts["subscribed"] >= self._subscribed, what="a subscription")
        for row in rows:
            self._give(row)

    def breaks(self) -> None:
        """Cut the source off; it can come back at once."""
        self._cut()
        wait_until(lambda: self.source.state["error"] or self.source.state["restarts"], what="a loss")
        self._mend()


@contextmanager
def breakable(kind: str, folder: Path, place: Callable[[], tuple[OpcUaServer, str]]) -> Iterator[Breakable]:
    """A source of the kind: ``own``, ``opcua`` at a place, or ``mqtt_<version>`` with a broker of its own."""
    used = profile()
    if kind == "own":
        rows: queue.Queue[Any] = queue.Queue()
        source = live(lambda: Given(used, iter(rows.get, None)), used)
        yield Breakable(source, rows.put, lambda: rows.put(OSError("unplugged")))
        rows.put(None)
    elif kind == "opcua":
        server, prefix = place()
        relay = TcpRelay(server.port)
        source = opened_live(server.address(prefix, relay.port), used, folder)
        yield Breakable(source, lambda row: server.write(*writes_of(prefix, row)), relay.cut, relay.mend)
        relay.cut()
    else:
        broker = MqttBroker(folder, kind.removeprefix("mqtt_"))
        broker.start()
        source = opened_live(f"{broker.address}/lost?version={broker.version}", used, folder)

        def give(row: Row) -> None:
            with broker.publisher() as publisher:
                publisher.give("lost", json_of(row))

        yield Breakable(source, give, broker.stop, broker.start)
        broker.stop()
