"""What a person says on the command line about a file of measurements."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.errors import SourceError


@dataclass(frozen=True)
class ReadingOptions:
    """What a person said about a file on the command line; empty: nothing."""

    time_columns: tuple[str, ...] = ()
    time_format: str = ""
    timezone: str = ""
    decimal: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    device_column: str = ""
    rate_hz: float | None = None
    keep: tuple[str, ...] = ()

    @property
    def no_time(self) -> bool:
        """Whether a person says that the file has no time."""
        return self.time_columns == ("none",)

    def decimals(self) -> dict[str, str]:
        """Decimal mark by column; under the empty name for all.

        Raises:
            SourceError: It is neither a point nor a comma.
        """
        marks = {}
        for given in self.decimal:
            column, _, mark = given.rpartition("=")
            if mark not in (".", ","):
                raise SourceError(
                    f"--decimal {given}: the mark is . or , as in --decimal , or --decimal temp=,"
                )
            marks[column] = mark
        return marks
