"""Unbiased averages from filtered rows, and exact ones from summaries, over a connection from ``connect``."""

# ruff: noqa: S608  # columns and conditions are the analyst's own SQL, which the door only lets read

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_store import duck
from feature_store.block_sql import (
    context_sql,
    design_blocks_sql,
    period_lengths_sql,
    period_start_sql,
    stratum_sql,
)
from feature_store.estimators import Flags, Floats, Labels, calibrated_mean, loss_weights, sums, total
from schemas.row_schemas import Stratum

BLOCK = "device_id, boot_id, model_version, stratum, period_start"
"""What rows and books share, and so the columns that ``where`` may use."""

_POOL_ROWS = 10
"""Selected rows from which a pool is full."""


@dataclass(frozen=True)
class Estimate:
    """A number and how far it may be off.

    Attributes:
        value: The estimate; NaN where no row has a value.
        low: Lower end of the interval.
        high: Upper end.
        n_rows: Rows it rests on.
        n_sensed: Rows they stand for: those sensed, by the books (N).
        flagged: Rows were lost beyond the design (a gap, a refusal, rows not here yet): the weights assume
            that the lost rows of a block were like its landed ones.
    """

    value: float
    low: float
    high: float
    n_rows: int
    n_sensed: int
    flagged: bool = False


@dataclass(frozen=True)
class ExactMean:
    """Mean over everything that was sensed, from the summaries: no sampling error.

    Attributes:
        n: Finite values.
        n_missing: Windows without one.
        std: Standard deviation of the values (population).
    """

    mean: float
    std: float
    n: int
    n_missing: int
    min: float
    max: float


def estimate_total(
    connection: duck.Connection, table: str, column: str, where: str = "true", confidence: float = 0.95
) -> Estimate:
    """Total of a column over all rows sensed, from those that landed.

    Args:
        connection: From ``connect``.
        table: A telemetry view, such as ``telemetry_machine``.
        column: Column, or SQL over the columns of a row; null counts as 0.
        where: SQL condition on ``BLOCK`` columns.
        confidence: Of the normal interval.

    Raises:
        QueryError: DuckDB refuses the column or the condition.
    """
    rows, blocks = _rows(connection, table, column, where), _blocks(connection, table, where)
    value, variance = total(np.nan_to_num(_floats(rows, "y")), _floats(rows, "q"))
    block = _index(rows, blocks)
    flagged = bool(_lossy(blocks, block[block >= 0]).any() or (block < 0).any())
    n_sensed = int(_floats(blocks, "sensed").sum())
    return _interval(value, variance, rows.num_rows, n_sensed, confidence, flagged=flagged)


def estimate_mean(
    connection: duck.Connection, table: str, column: str, where: str = "true", confidence: float = 0.95
) -> Estimate:
    """Mean of a column over all rows sensed, from those that landed and the books.

    A device sensed 100 rows at 20 degrees, of which it sent one in ten, and two at 99 degrees, which a rule
    selected. The plain mean of what landed would be 33 degrees:

    >>> from feature_store import duck
    >>> con = duck.build([
    ...     "CREATE TABLE landed AS SELECT 'm-1' AS device_id, 1 AS boot_id, 'v' AS model_version,"
    ...     " '2026-07-01 12:00:00Z'::TIMESTAMPTZ AS event_time, NULL::TIMESTAMPTZ AS device_time,"
    ...     " if(i < 10, 20.0, 99.0) AS temperature, if(i < 10, 1, 2) AS reasons,"
    ...     " if(i < 10, 0.1, 1.0) AS inclusion_probability FROM range(12) t(i)",
    ...     "CREATE TABLE books AS SELECT 'landed' AS profile, 'm-1' AS device_id, 1 AS boot_id,"
    ...     " 'v' AS model_version, stratum, '2026-07-01 12:00:00Z'::TIMESTAMPTZ AS period_start,"
    ...     " 60.0 AS period_s, sensed, acked, sensed - acked AS filtered, 0 AS pending, 0 AS refused,"
    ...     " false AS gap FROM (VALUES ('sample', 100, 10), ('rule', 2, 2)) b(stratum, sensed, acked)",
    ... ])
    >>> estimate = estimate_mean(con, "landed", "temperature")
    >>> round(estimate.value, 2), estimate.n_rows, estimate.n_sensed, estimate.flagged
    (21.55, 12, 102, False)

    Args:
        connection: From ``connect``.
        table: A telemetry view, such as ``telemetry_machine``.
        column: Column, or SQL over the columns of a row; rows where it is null do not count.
        where: SQL condition on ``BLOCK`` columns, such as ``device_id = 'm-1'``.
        confidence: Of the normal interval.

    Raises:
        QueryError: DuckDB refuses the column or the condition.
    """
    rows, blocks = _rows(connection, table, column, where), _blocks(connection, table, where)
    block = _index(rows, blocks)
    known = block >= 0  # the books of the other rows are not here yet, so their weights are unknown
    y, q, block = _floats(rows, "y")[known], _floats(rows, "q")[known], block[known]
    sensed, lossy = _floats(blocks, "sensed"), _lossy(blocks, block)
    pool, sizes, lossy_pools = _pools(blocks, sensed, lossy)
    weights = loss_weights(q, pool[block], sizes, lossy_pools)
    stratum, stratum_sizes = _strata(blocks, sensed)
    mean, variance = calibrated_mean(y, weights, stratum[block], stratum_sizes)
    flagged = bool(lossy.any() or not known.all())
    return _interval(mean, variance, len(y), int(sensed.sum()), confidence, flagged=flagged)


def exact_mean(connection: duck.Connection, profile: str, feature: str, where: str = "true") -> ExactMean:
    """Mean and spread of a feature over every window sensed, filtered ones included, shadows left out.

    Args:
        connection: From ``connect``.
        profile: Profile's name.
        feature: Feature's name, or ``score``.
        where: SQL condition on the columns of ``summaries``.

    Raises:
        QueryError: DuckDB refuses the condition.
    """
    chosen = f"profile = {duck.text(profile)} AND feature = {duck.text(feature)} AND part >= 0 AND ({where})"
    # Chan, Golub and LeVeque (1979): squared deviations of parts and of their means add up.
    [row] = duck.query(
        connection,
        f"""
        WITH parts AS (SELECT * FROM summaries WHERE {chosen}),
        pooled AS (SELECT sum(n * mean) / nullif(sum(n), 0) AS grand FROM parts WHERE n > 0)
        SELECT any_value(grand) AS mean, {duck.total("n")} AS n,
            {duck.total("n_missing")} AS n_missing, min("min") AS low, max("max") AS high,
            sum(m2 + CASE WHEN n > 0 THEN n * (mean - grand) ** 2 ELSE 0 END) AS m2
        FROM parts CROSS JOIN pooled""",
    ).to_pylist()
    n = row["n"]
    mean, low, high = (math.nan if row[k] is None else row[k] for k in ("mean", "low", "high"))
    return ExactMean(mean, math.sqrt(row["m2"] / n) if n else math.nan, n, row["n_missing"], low, high)


def _rows(connection: duck.Connection, table: str, column: str, where: str) -> pa.Table:
    """Landed rows with value y, probability q and block; context has no q, and is left out."""
    return duck.query(
        connection,
        f"""
        SELECT y, q, {BLOCK} FROM (
            SELECT ({column})::DOUBLE AS y, t.inclusion_probability AS q, t.device_id, t.boot_id,
                t.model_version, {stratum_sql("t.reasons")} AS stratum,
                {period_start_sql("t", "l.period_s")} AS period_start
            FROM {duck.name(table)} t
            LEFT JOIN ({period_lengths_sql("books")}) l USING (device_id, boot_id)
            WHERE NOT {context_sql("t.reasons")}
        ) WHERE {where}""",
    )


def _blocks(connection: duck.Connection, table: str, where: str) -> pa.Table:
    """Blocks of the books of the table's profile, with what landed of them."""
    profile = table.removeprefix("telemetry_")
    of_profile = "true" if table == "telemetry" else f"profile = {duck.text(profile)}"
    counts = {"acked": "acked", "selected": "sensed - filtered", "missing": "pending + refused"}
    lines = f"(SELECT * FROM books WHERE {of_profile})"
    blocks = design_blocks_sql(lines, counts, {"gap": "gap"})
    return duck.query(
        connection,
        f"""
        SELECT {BLOCK}, sensed, acked, selected, missing, gap
        FROM (SELECT *, design_stratum AS stratum FROM ({blocks})) WHERE {where}""",
    )


def _lossy(blocks: pa.Table, block: Labels) -> Flags:
    """Blocks that lack rows beyond the design: evicted whole, refused, pending, or not landed yet."""
    gap = blocks.column("gap").to_numpy(zero_copy_only=False).astype(bool)
    landed = np.bincount(block, minlength=blocks.num_rows)
    return np.asarray(gap | (_floats(blocks, "missing") > 0) | (landed < _floats(blocks, "acked")))


def _pools(blocks: pa.Table, sensed: Floats, lossy: Flags) -> tuple[Labels, Floats, Flags]:
    """Pool of each block, rows sensed in each pool, and whether it lost rows.

    A short period may have an empty sample by design. Calibrated alone, its rows would drop out of the
    estimate, and the samples of its neighbours would not stand for them. So neighbouring periods of one
    device and stratum are pooled until about ``_POOL_ROWS`` rows were selected in them.
    """
    # In this order the blocks of one device and stratum are neighbours, oldest first.
    keys = ["device_id", "stratum", "boot_id", "period_start"]
    order = pc.sort_indices(blocks, [(k, "ascending") for k in keys]).to_numpy()
    ordered = blocks.take(order)
    device, stratum = (
        ordered.column(k).combine_chunks().dictionary_encode().indices.to_numpy() for k in keys[:2]
    )
    # First block of a device and stratum; the slice matters only where there is no block at all.
    first = np.append(True, (device[1:] != device[:-1]) | (stratum[1:] != stratum[:-1]))[: len(order)]
    selected = _floats(ordered, "selected")
    before = selected.cumsum() - selected
    # The running sum never falls, so the newest start of a device and stratum is the largest one so far:
    # less that start, it counts the rows selected before each block within its own device and stratum.
    within = before - np.maximum.accumulate(np.where(first, before, 0.0))
    # A pool ends with the block in which that count passes a multiple of ``_POOL_ROWS``.
    step = within // _POOL_ROWS
    opens = first | np.append(True, step[1:] != step[:-1])[: len(order)]
    # Back to the order in which the caller has the blocks.
    pool = np.empty(len(order), dtype=np.int64)
    pool[order] = np.cumsum(opens) - 1
    n = int(opens.sum())
    return pool, sums(sensed, pool, n), sums(lossy.astype(np.float64), pool, n) > 0


def _strata(blocks: pa.Table, sensed: Floats) -> tuple[Labels, Floats]:
    """Stratum of each block (0 sample, 1 rule), and rows sensed in each stratum over all periods."""
    rule = np.array([s == Stratum.RULE for s in blocks.column("stratum").to_pylist()], dtype=np.int64)
    return rule, sums(sensed, rule, 2)


def _index(rows: pa.Table, blocks: pa.Table) -> Labels:
    """Index of each row's block; -1: the books do not have that block."""
    keys = BLOCK.split(", ")
    numbered = blocks.select(keys).append_column("_block", pa.array(range(blocks.num_rows), pa.int64()))
    ordered = rows.select(keys).append_column("_row", pa.array(range(rows.num_rows), pa.int64()))
    joined = ordered.join(numbered, keys, join_type="left outer").sort_by("_row")
    return np.asarray(joined.column("_block").fill_null(-1).to_numpy(), dtype=np.int64)


def _interval(
    value: float, variance: float, n_rows: int, n_sensed: int, confidence: float, *, flagged: bool
) -> Estimate:
    reach = NormalDist().inv_cdf(0.5 + confidence / 2) * math.sqrt(variance)
    return Estimate(value, value - reach, value + reach, n_rows, n_sensed, flagged)


def _floats(table: pa.Table, column: str) -> Floats:
    values = table.column(column).cast(pa.float64()).fill_null(math.nan)
    return np.asarray(values.to_numpy(), dtype=np.float64)
