"""Writes a drafted profile as commented TOML."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from edge_producer.bundle import BUNDLES, GENERIC
from schemas.profile import SLOW_S, Profile
from schemas.profile_file import parse_profile
from schemas.summary_period import PERIODS_S, period_for

LEAST_PERIOD_S = 5
CENTURY_S = 3_155_760_000.0


@dataclass(frozen=True, slots=True)
class ReplayForm:
    """What the draft's ``[replay]`` says, as in ``schemas.profile.Replay``.

    Attributes:
        zoned: Whether times carry their own zone.
    """

    time_columns: tuple[str, ...] = ()
    time_format: str = "iso"
    timezone: str = "UTC"
    delimiter: str = ","
    decimal: str = "."
    encoding: str = "utf-8"
    zoned: bool = False
    device_column: str = ""
    decimals: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DraftColumn:
    """A channel and its column in the file.

    Attributes:
        low, high: Beyond them a value is absurd.
        usual_low, usual_high: What the file shows, absurd values left out.
        absurd: Values outside ``low`` to ``high``.
        unusual: Values between these and the usual ones.
        blank: Cells without a number.
        sentinels: Values that mean "no value".
        codes: Numbers that stand for texts.
        dtype: Type that holds the column's steps.
    """

    channel: str
    header: str
    unit: str
    low: float
    high: float
    usual_low: float
    usual_high: float
    absurd: int
    unusual: int
    blank: int
    sentinels: tuple[float, ...] = ()
    codes: Mapping[str, float] = field(default_factory=dict)
    dtype: str = "float32"


@dataclass(frozen=True, slots=True)
class WindowShape:
    """Window and hop in samples, feature kinds, warm-up in windows."""

    window: int
    hop: int
    kinds: tuple[str, ...]
    warmup: int


@dataclass(frozen=True, slots=True)
class ProfileContents:
    """Everything that the text states.

    Attributes:
        rows: Rows that were read.
        rate_known: False: the file has no time column, and the rate is a guess.
    """

    name: str
    file: str
    form: ReplayForm
    columns: tuple[DraftColumn, ...]
    skipped: Mapping[str, str]
    rows: int
    rate_hz: float
    rate_known: bool
    shape: WindowShape


def write_profile(plan: ProfileContents) -> tuple[str, Profile]:
    """The TOML text, and the profile it parses to."""
    parts = [
        _head(plan),
        _sampling(plan),
        *(_channel(c) for c in plan.columns),
        _features(plan),
        _model(plan),
        _policies(plan),
        _replay(plan),
    ]
    text = "\n".join(parts)
    return text, parse_profile(text, f"draft for {plan.file}")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _comment(text: str) -> str:
    """A comment of one line, whatever the text contains."""
    return "# " + " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _head(plan: ProfileContents) -> str:
    lines = [
        _comment(f"Drafted from all {plan.rows:,} rows of {plan.file}. Every key: docs/profiles.md."),
        *(_comment(f"Not a channel: {n.strip() or '(no name)'}: {why}") for n, why in plan.skipped.items()),
        f"name = {_quoted(plan.name)}",
        f"description = {_quoted(f'Recording {plan.file}')}",
        "",
    ]
    return "\n".join(lines)


def _sampling(plan: ProfileContents) -> str:
    if plan.rate_known:
        note = f"median step of the time column: {1 / plan.rate_hz:.6g} s"
    else:
        note = "no time column found: one sample a second is a guess"
    return f"""[sampling]
rate_hz = {plan.rate_hz!r}  # {note}
window_samples = {plan.shape.window}
hop_samples = {plan.shape.hop}
"""


def _channel(column: DraftColumn) -> str:
    note = f"  # {column.absurd} values outside min..max become missing" if column.absurd else ""
    far = f"  # {column.unusual} values lie outside: faults or nonsense?" if column.unusual else ""
    unit = "  # fill in" if column.unit == "?" else ""
    wide = "  # float32 cannot hold its steps"
    dtype = "" if column.dtype == "float32" else f"dtype = {_quoted(column.dtype)}{wide}\n"
    return f"""[[channels]]
name = {_quoted(column.channel)}
unit = {_quoted(column.unit)}{unit}
{dtype}min = {column.low!r}{note}
max = {column.high!r}
usual_min = {column.usual_low!r}{far}
usual_max = {column.usual_high!r}
"""


def _features(plan: ProfileContents) -> str:
    kinds = json.dumps(list(plan.shape.kinds))
    chosen = "\n".join(
        f"[[features.compute]]\nchannel = {_quoted(c.channel)}\nkinds = {kinds}\n" for c in plan.columns
    )
    return f"[features]\nset = {_quoted(plan.name)}\nversion = 1\n\n{chosen}"


def _model(plan: ProfileContents) -> str:
    own = f"{_quoted(plan.name)}  # a generic score, until `edgeloop model fit` gives it a model of its own"
    shipped = f"{_quoted(GENERIC)}  # distance from the device's own usual: nothing to train"
    return f"""[model]
name = {shipped if (BUNDLES / plan.name).is_dir() else own}
reference_windows = 512
warmup_windows = {plan.shape.warmup}

[decision]
idle = "none"
fail_safe = "none"

[[decision.rules]]
action = "inspect"
enter = 0.6
leave = 0.45
after_windows = 2
"""


def _policies(plan: ProfileContents) -> str:
    hop_s = plan.shape.hop / plan.rate_hz
    period = period_for(hop_s, LEAST_PERIOD_S)
    window = next((p for p in PERIODS_S if p >= 4 * period), PERIODS_S[-1])
    return f"""[filter]
p = 0.1  # share of unremarkable rows that is sent; estimates weight by it
p_min = 0.02
threshold = 0.5
burst_after = 5
pretrigger = 3
{_delay(hop_s, period)}
[summaries]
period_s = {period}

[drift]
window_s = {window}
lateness_s = {period}
min_effect = 1.0  # 3.0 for fewer verdicts where values wander (docs/drift.md)
# seasonal_s = 86400  # where a day looks like the day before

[clock]
max_age_s = {CENTURY_S}  # a recording may be as old as it is
"""


def _delay(hop_s: float, period_s: int) -> str:
    """How long sampled rows of a slow recording may wait; nothing for faster ones, which do not."""
    if hop_s < SLOW_S:
        return ""
    why = "sampled rows may wait so long to share a message; rows of a rule do not"
    return f"delay_s = {period_s}  # {why}\n"


def _replay(plan: ProfileContents) -> str:
    form = plan.form
    zone = "times carry their own zone" if form.zoned else "of times without a zone; an IANA name"
    columns = "\n".join(f"{c.channel} = {_quoted(c.header)}" for c in plan.columns)
    time = f"time_column = {_quoted(form.time_columns[0] if form.time_columns else '')}"
    if len(form.time_columns) > 1:
        time = f"time_columns = {json.dumps(list(form.time_columns), ensure_ascii=False)}"
    more = [f"device_column = {_quoted(form.device_column)}"] if form.device_column else []
    if form.missing:
        more.append(f"missing = {json.dumps(list(form.missing), ensure_ascii=False)}")
    tables = _tables("decimals", {k: _quoted(v) for k, v in form.decimals.items()})
    tables += _tables("sentinels", {c.channel: f"{list(c.sentinels)}" for c in plan.columns if c.sentinels})
    for column in plan.columns:
        if column.codes:
            texts = {_quoted(k): repr(v) for k, v in column.codes.items()}
            tables += _tables(f"codes.{column.channel}", texts)
    return f"""[replay]
{time}
time_format = {_quoted(form.time_format)}
timezone = {_quoted(form.timezone)}  # {zone}
delimiter = {_quoted(form.delimiter)}
decimal = {_quoted(form.decimal)}
encoding = {_quoted(form.encoding)}
{"".join(f"{line}{chr(10)}" for line in more)}
[replay.columns]
{columns}
{tables}"""


def _tables(name: str, values: Mapping[str, str]) -> str:
    if not values:
        return ""
    return f"\n[replay.{name}]\n" + "".join(f"{k} = {v}\n" for k, v in values.items())
