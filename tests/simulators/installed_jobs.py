"""Users' jobs as pip leaves them: a module, and a distribution that names it as an entry point."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path


def install(
    folder: Path,
    name: str,
    source: str,
    cls: str = "TheJob",
    entry_point: str | None = None,
    version: str = "0.1.0",
    group: str = "edgeloop.jobs",
) -> None:
    """Install a job, or an entry point of another group, in the place of an earlier version."""
    for earlier in folder.glob(f"{name}-*.dist-info"):
        shutil.rmtree(earlier)
    (folder / f"{name}.py").write_text(source)
    distribution = folder / f"{name}-{version}.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (distribution / "entry_points.txt").write_text(f"[{group}]\n{entry_point or name} = {name}:{cls}\n")
    digest = hashlib.sha256(source.encode()).hexdigest()
    (distribution / "RECORD").write_text(f"{name}.py,sha256={digest},{len(source)}\n")


def remove(folder: Path, name: str) -> None:
    """Uninstall it."""
    (folder / f"{name}.py").unlink()
    for distribution in folder.glob(f"{name}-*.dist-info"):
        shutil.rmtree(distribution)


NUMBERING = '''
import ctypes
from pathlib import Path

import pyarrow as pa

from schemas.tables import PROVENANCE, TableSpec
from stream_processors import Output, derived_provenance

NAME = "{name}"
TABLE = TableSpec("{name}_rows", "Rows, numbered by device.", pa.schema([
    pa.field("device_id", pa.string(), False), pa.field("seq", pa.int64(), False),
    pa.field("number", pa.int64(), False), *PROVENANCE]))


class TheJob:
    """Numbers the rows of each device; misbehaves as the file `fault` beside this module says."""

    name, version, state_version = NAME, 1, 1
    reads = ("telemetry_*",)
    tables = (TABLE,)

    def __init__(self, context):
        self._fault = Path(__file__).with_name(NAME + ".fault")

    def process(self, batch, state, now):
        rows = {{}}
        if batch.rows and self._fault.exists():
            MISBEHAVE[self._fault.read_text()]()
        numbers, found = {{}}, []
        for table in batch.rows.values():
            for row in table.select(["device_id", "seq"]).to_pylist():
                device = row["device_id"]
                numbers[device] = numbers.get(device, state.get(device, 0)) + 1
                number = {{"number": numbers[device], "_row": len(found)}}
                found.append(row | number | derived_provenance(batch, now))
        if found:
            rows = {{TABLE.name: pa.Table.from_pylist(found, schema=TABLE.schema)}}
        return Output(rows=rows, state=numbers)


def raising():
    raise ValueError("a sensor said \\x1b[31mno")


def eating():
    eaten = []
    while True:
        eaten.append(bytearray(64 << 20))


MISBEHAVE = {{
    "raise": raising,
    "segfault": lambda: ctypes.string_at(1),
    "hang": lambda: ctypes.PyDLL(None).pause(),  # with Python's lock held
    "eat": eating,
}}
'''
"""A job that numbers rows, and whose faults a test switches on and off."""

LISTENING = """
import pyarrow as pa

from schemas.tables import PROVENANCE, TableSpec
from stream_processors import Derived, Output, derived_provenance

TABLE = TableSpec("listening_rows", "Where messages were.", pa.schema([
    pa.field("source_offset", pa.int64(), False), *PROVENANCE]))


class TheJob:
    name, version, state_version = "listening", 1, 1
    reads = ("telemetry.v1",)
    tables = (TABLE,)

    def __init__(self, context):
        pass

    def process(self, batch, state, now):
        rows = [
            {"source_offset": m.offset, "_row": i} | derived_provenance(batch, now)
            for i, m in enumerate(batch.messages)
        ]
        return Output(
            rows={TABLE.name: pa.Table.from_pylist(rows, schema=TABLE.schema)},
            messages=tuple(Derived("lifecycle.v1", "all", b"{}") for _ in rows),
        )
"""
"""A job that reads raw messages, lands a row for each and publishes one."""
