"""Rows of a simulated fleet: what it sensed, what it sent, what its books hold."""

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pyarrow as pa

from feature_store.append import append
from feature_store.cut_store import CutStore
from feature_store.lake import Lake
from feature_store.lake_registry import ProfileRegistry
from schemas.row_schemas import Reason
from schemas.tables import ALERTS, BOOKS, DEVICE_STATES, QUARANTINE, telemetry_table
from tests.feature_store.lakes import T0
from tests.quick_machine_profile import quick_machine_profile

PROFILE = quick_machine_profile()
TELEMETRY = telemetry_table(PROFILE)
PERIOD_S = PROFILE.summaries.period_s
SECOND = timedelta(seconds=1)


def fill(schema: pa.Schema, **columns) -> pa.Table:
    """Rows with these columns; the others are null, or nothing in particular where that is not allowed."""
    n = max(len(c) for c in columns.values())
    neutral = {pa.string(): "", pa.bool_(): False, pa.float64(): 1.0, pa.float32(): 1.0}
    arrays = []
    for f in schema:
        if f.name in columns:
            arrays.append(pa.array(columns[f.name], f.type))
        elif f.nullable:
            arrays.append(pa.nulls(n, f.type))
        elif pa.types.is_timestamp(f.type):
            arrays.append(pa.array([T0] * n, f.type))
        else:
            arrays.append(pa.array([neutral.get(f.type, 0)] * n, f.type))
    return pa.table(arrays, schema=schema)


def telemetry(**columns) -> pa.Table:
    return fill(TELEMETRY.schema, **columns)


def books(**columns) -> pa.Table:
    n = len(columns["device_id"])
    fixed = {"profile": ["machine"] * n, "period_s": [PERIOD_S] * n}
    return fill(BOOKS.schema, **{**fixed, **columns})


def alerts(**columns) -> pa.Table:
    return fill(ALERTS.schema, profile=["machine"] * len(columns["device_id"]), **columns)


def states(**columns) -> pa.Table:
    return fill(DEVICE_STATES.schema, profile=["machine"] * len(columns["device_id"]), **columns)


def quarantined(**columns) -> pa.Table:
    return fill(QUARANTINE.schema, **columns)


def machine_lake(root) -> Lake:
    """A lake that knows profile machine."""
    lake = Lake.open(root)
    lake.ensure_fixed_tables()
    ProfileRegistry(lake).register(PROFILE)
    return lake


def land(lake: Lake, **tables) -> None:
    """Commit the rows; ``telemetry`` stands for the machine's table."""
    named = {TELEMETRY.name if name == "telemetry" else name: rows for name, rows in tables.items()}
    append(lake, CutStore(lake), "test", lambda n: named)


@dataclass
class Sensed:
    """One device's windows, and which of them were sent."""

    y: np.ndarray
    rule: np.ndarray
    q: np.ndarray
    sent: np.ndarray
    device: str = "m-1"

    def rows(self) -> pa.Table:
        [at] = np.nonzero(self.sent)
        reasons = np.where(self.rule[at], int(Reason.THRESHOLD), int(Reason.SAMPLE))
        return telemetry(
            device_id=[self.device] * len(at),
            model_version=["1"] * len(at),
            seq=at,
            event_time=[T0 + int(i) * SECOND for i in at],
            reasons=reasons,
            decision=["none"] * len(at),
            inclusion_probability=self.q[at],
            vibration_rms=self.y[at].astype(np.float32),
        )

    def statement(self, **overrides) -> pa.Table:
        """Books of every period and stratum."""
        length = int(PERIOD_S)
        found = []
        for start in range(0, len(self.y), length):
            span = slice(start, start + length)
            for name, of_stratum in (("rule", self.rule[span]), ("sample", ~self.rule[span])):
                if of_stratum.any():
                    sent = int((of_stratum & self.sent[span]).sum())
                    found.append((T0 + start * SECOND, name, int(of_stratum.sum()), sent))
        starts, strata, sensed, acked = zip(*found, strict=True)
        columns = {
            "device_id": [self.device] * len(found),
            "model_version": ["1"] * len(found),
            "period_start": starts,
            "stratum": strata,
            "sensed": sensed,
            "acked": acked,
            "filtered": np.array(sensed) - np.array(acked),
        }
        return books(**{**columns, **overrides})


def sense(rng, n=3000, p=0.05, device="m-1") -> Sensed:
    """Windows of which the high ones are sent by rule and the others by chance."""
    y = 20 + rng.normal(size=n).cumsum() * 0.05 + rng.normal(size=n) + 15 * (rng.random(n) < 0.03)
    rule = y > 25
    q = np.where(rule, 1.0, p)
    return Sensed(y, rule, q, rng.random(n) < q, device)
