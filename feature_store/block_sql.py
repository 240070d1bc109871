"""SQL of the block that a landed row belongs to: its stratum and period, as the device keeps its books."""

# ruff: noqa: S608  # the SQL is made of constants and of names that the callers choose

from __future__ import annotations

from collections.abc import Mapping

from feature_store import duck
from schemas.row_schemas import CONTEXT, RULES, Stratum


def stratum_sql(reasons: str) -> str:
    """SQL of a row's stratum.

    Args:
        reasons: Column with the bits of ``schemas.row_schemas.Reason``.
    """
    rule = f"if(({reasons} & {RULES}) <> 0, '{Stratum.RULE}', '{Stratum.SAMPLE}')"
    return f"if({context_sql(reasons)}, '{Stratum.CONTEXT}', {rule})"


def context_sql(reasons: str) -> str:
    """SQL condition: the row is context, and so in no estimate and in no training set.

    Args:
        reasons: As above.
    """
    return f"(({reasons} & {CONTEXT}) <> 0)"


def design_blocks_sql(lines: str, sums: Mapping[str, str], flags: Mapping[str, str]) -> str:
    """SQL of the blocks by which estimates are made: lines of the books, without a stratum of context.

    Context is what the sample might have selected and did not. So its rows belong to the sample's ``sensed``,
    and to nothing else: what became of the copies that people look at does not matter.

    Args:
        lines: Table, view or CTE with lines of the books, one of each stratum.
        sums: Further columns by name: what is summed up over the lines that are not context.
        flags: Likewise: what must hold of one of them.
    """
    own = f"stratum <> '{Stratum.CONTEXT}'"
    columns = [f"{duck.total(summed, own)} AS {name}" for name, summed in sums.items()]
    columns += [f"coalesce(bool_or({flag}) FILTER ({own}), false) AS {name}" for name, flag in flags.items()]
    return f"""
        SELECT device_id, boot_id, model_version, period_start,
            if({own}, stratum, '{Stratum.SAMPLE}') AS design_stratum, any_value(period_s) AS period_s,
            {", ".join([f"{duck.total('sensed')} AS sensed", *columns])}
        FROM {lines} GROUP BY device_id, boot_id, model_version, period_start, design_stratum"""


def period_start_sql(row: str, period_s: str) -> str:
    """SQL of the start of a row's period, null where the length is null.

    Args:
        row: Alias of a telemetry table.
        period_s: Column with the length of the periods that the row's device used in that boot, seconds.
    """
    # A suspect row is in the books under the device's own time: the cloud replaced event_time on landing.
    at_us = f"epoch_us(coalesce({row}.device_time, {row}.event_time))"
    # Periods are aligned to UTC, and the division is of integers: a device does the same.
    return f"make_timestamptz({at_us} - ({at_us} % ({period_s} * 1e6)::BIGINT))"


def period_lengths_sql(books: str) -> str:
    """SQL of the length of periods by device and boot; it never changes within a boot.

    Args:
        books: Table or view of books.
    """
    return f"SELECT device_id, boot_id, any_value(period_s) AS period_s FROM {books} GROUP BY ALL"
