"""`docs/profiles.md` names every key of a profile with its default, and no other."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel

from edge_producer.sources import ReplaySource
from edge_producer.verticals.machine.machine_sensors import MachineSensors
from schemas.feature_set import FEATURE_KINDS
from schemas.profile import Profile
from schemas.profile_file import find_profile

PAGE = (Path(__file__).parents[2] / "docs" / "profiles.md").read_text(encoding="utf-8")
TABLES = re.findall(r"\| (key|kind|count) \|[^\n]*\n\|[-|]+\n((?:\|[^\n]*\n)+)", PAGE)


def keys_of(model: type[BaseModel]) -> Iterator[list[tuple[str, str]]]:
    """Key and default of each table, depth first: a section's own keys before those of its parts."""
    parts, own = [], []
    for name, field in model.model_fields.items():
        inner = [a for a in parts_of(field.annotation) if isinstance(a, type)]
        sections = [a for a in inner if issubclass(a, BaseModel)]
        parts += sections
        if not sections:
            own.append((name, "required" if field.is_required() else shown(field.get_default())))
    yield own
    for part in parts:
        yield from keys_of(part)


def parts_of(annotation: object) -> Iterator[object]:
    """A type, and all that it is made of."""
    yield annotation
    for part in typing.get_args(annotation):
        yield from parts_of(part)


def shown(default: object) -> str:
    """A default as TOML shows it; an absent one is ``none``."""
    if default is None:
        return "none"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, tuple):
        return f"`{list(default)}`".replace("'", '"')
    return f'`"{default}"`' if isinstance(default, str) else f"`{default}`"


def rows(kind: str) -> list[list[list[str]]]:
    tables = [body for what, body in TABLES if what == kind]
    return [[line.strip("| ").split(" | ") for line in body.strip().splitlines()] for body in tables]


def test_every_key_is_documented_with_its_default_and_none_is_made_up():
    documented = [[(key.strip("`"), default) for key, default, *_ in table] for table in rows("key")]
    assert documented == list(keys_of(Profile))


def test_every_feature_kind_and_injection_is_documented():
    kinds, injections = ([row[0].strip("`") for row in table] for table in rows("kind"))
    assert kinds == list(FEATURE_KINDS)
    assert injections == [*MachineSensors.kinds, "clock_step"]
    assert [row[2] == "yes" for row in rows("kind")[1]] == [*MachineSensors.kinds.values(), False]


def test_every_count_of_a_replay_is_documented(tmp_path):
    source = ReplaySource(tmp_path / "none.csv", find_profile("machine"), "d1", datetime.now(UTC))
    assert {row[0].strip("`") for row in rows("count")[0]} >= set(source.counts) - {"in_windows"}
