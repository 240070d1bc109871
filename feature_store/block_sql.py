"""SQL of the block that a landed row belongs to: its stratum and period, as the device keeps its books."""

# ruff: noqa: S608  # the SQL is made of constants and of names that the callers choose

from __future__ import annotations

from schemas.row_schemas import RULES, Stratum


def stratum_sql(reasons: str) -> str:
    """SQL of a row's stratum.

    Args:
        reasons: Column with the bits of ``schemas.row_schemas.Reason``.
    """
    return f"if(({reasons} & {RULES}) <> 0, '{Stratum.RULE}', '{Stratum.SAMPLE}')"


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
