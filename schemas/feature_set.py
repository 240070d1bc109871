"""The features of a profile: which numbers are computed from a window, and from its event time."""

from __future__ import annotations

from typing import Self

from pydantic import Field, PositiveInt, model_validator

from schemas.calendar_features import CALENDAR, CALENDAR_KINDS, zone_named
from schemas.section import Name, Section

FEATURE_KINDS: dict[str, str] = {
    "last": "last sample",
    "mean": "mean",
    "std": "standard deviation",
    "min": "smallest sample",
    "max": "largest sample",
    "rms": "root mean square",
    "peak": "largest absolute deviation from the mean",
    "crest": "peak over standard deviation",
    "kurtosis": "fourth standardised moment",
    "band_low": "RMS of the spectrum below 1/8 of the sampling rate, mean removed",
    "band_mid": "RMS of the spectrum between 1/8 and 1/4 of the sampling rate",
    "band_high": "RMS of the spectrum above 1/4 of the sampling rate",
}
"""Feature kinds that a feature graph can compute from one channel's window, and their meaning."""

UNITLESS_KINDS = ("crest", "kurtosis")


class FeatureSpec(Section):
    """One column of a feature set: a kind computed from channels' windows, or from the event time.

    Attributes:
        channel: Channel that it is computed from; several are joined by ``_``; ``calendar``: from the event
            time.
        unit: Empty for a kind of a package: only the package knows it.
        inputs: Channels that it is computed from; None: the one channel.
    """

    channel: str
    kind: str
    unit: str
    inputs: tuple[Name, ...] | None = None

    @property
    def name(self) -> str:
        """Column name, ``<channel>_<kind>``."""
        return f"{self.channel}_{self.kind}"

    @property
    def sources(self) -> tuple[str, ...]:
        """Channels that it is computed from; none of the calendar."""
        return (self.channel,) if self.inputs is None else self.inputs

    @property
    def built_in(self) -> bool:
        """Whether it is a kind of ours, of one channel: the generic model knows no others."""
        return bool(self.sources) and self.kind in FEATURE_KINDS

    @property
    def scales(self) -> bool:
        """Whether it carries its one channel's unit, so that a sensor's gain or offset moves it."""
        return self.built_in and self.kind not in UNITLESS_KINDS

    @property
    def doc(self) -> str:
        """What the column holds, with its unit where that is known."""
        if not self.sources:
            return f"calendar: {CALENDAR_KINDS[self.kind].meaning} at the window's event time [{self.unit}]."
        if self.built_in:
            return f"{self.channel}: {FEATURE_KINDS[self.kind]} over the window [{self.unit}]."
        return f"{', '.join(self.sources)}: kind {self.kind}, of a package, over the window."


class FeatureChoice(Section):
    """Which kinds to compute from one channel, or from several together.

    Attributes:
        channels: Instead of ``channel``: several, for kinds of packages.
    """

    channel: Name | None = None
    channels: tuple[Name, ...] = ()
    kinds: tuple[str, ...] = Field(min_length=1)

    @property
    def sources(self) -> tuple[str, ...]:
        """The channel, or the channels."""
        return self.channels or (self.channel or "",)

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.channel is None) == (not self.channels):
            raise ValueError("features.compute takes either channel or channels")
        if self.channels and (len(self.channels) < 2 or len(set(self.channels)) < len(self.channels)):
            raise ValueError("features.compute: channels names two or more, each once; else it is channel")
        return self


class Features(Section):
    """A named, versioned feature set.

    Attributes:
        calendar: Features of the event time, behind all others.
        time_zone: IANA zone of the calendar.
        also: Kinds of installed packages that ``compute`` uses (entry points ``edgeloop.features``).
    """

    set: Name
    version: PositiveInt = 1
    calendar: tuple[str, ...] = ()
    time_zone: str = "UTC"
    also: tuple[Name, ...] = ()
    compute: tuple[FeatureChoice, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _known(self) -> Self:
        named = {kind for choice in self.compute for kind in choice.kinds}
        if unknown := sorted(named - {*FEATURE_KINDS, *self.also}):
            raise ValueError(
                f"unknown feature kinds {unknown}; known: {', '.join(FEATURE_KINDS)}, and kinds of packages "
                "that features.also names"
            )
        if wrong := sorted(set(self.also) & FEATURE_KINDS.keys()) or sorted(set(self.also) - named):
            raise ValueError(f"features.also names {wrong}, which are built in or not computed")
        alone = {k for c in self.compute if c.channels for k in c.kinds} & FEATURE_KINDS.keys()
        if alone:
            raise ValueError(f"features.compute: {sorted(alone)} are kinds of one channel, not of several")
        if unknown := sorted(set(self.calendar) - CALENDAR_KINDS.keys()):
            raise ValueError(f"unknown calendar features {unknown}; known: {', '.join(CALENDAR_KINDS)}")
        if not self.calendar and self.time_zone != "UTC":
            raise ValueError("features.time_zone says nothing without features.calendar")
        zone_named(self.time_zone)
        return self

    def specs(self, units: dict[str, str]) -> tuple[FeatureSpec, ...]:
        """Columns in order: those of the channels, then the calendar's.

        Args:
            units: Unit by channel.
        """
        return tuple(_spec(choice, kind, units) for choice in self.compute for kind in choice.kinds) + tuple(
            FeatureSpec(channel=CALENDAR, kind=k, unit=CALENDAR_KINDS[k].unit, inputs=())
            for k in self.calendar
        )


def _spec(choice: FeatureChoice, kind: str, units: dict[str, str]) -> FeatureSpec:
    names = choice.sources
    if kind not in FEATURE_KINDS:
        return FeatureSpec(channel="_".join(names), kind=kind, unit="", inputs=names)
    return FeatureSpec(channel=names[0], kind=kind, unit="1" if kind in UNITLESS_KINDS else units[names[0]])
