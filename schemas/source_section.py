"""The sections ``[source]`` and ``[align]`` of a profile: how what sensors send becomes samples."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, SerializerFunctionWrapHandler, model_serializer

from schemas.section import Section

AlignPolicy = Literal["last", "mean", "interpolate"]
YOUNGER_KEYS = ("node", "metric")
TIME_FORMATS = ("iso", "epoch_s", "epoch_ms", "epoch_us", "epoch_ns")


class ChannelMapping(Section):
    """Where one channel's values are found.

    Attributes:
        topic: MQTT topic filter of the channel's messages; empty: any topic of the source.
        field: Path in the payload, ``data.rms`` or ``values.0``, or name of the column; empty: the channel's
            own name, or a payload that is the plain number.
        node: OPC UA: NodeId, ``ns=2;s=Pump.Heat`` or ``nsu=urn:plant;i=7``; ``{device}`` in it stands for the
            device's id. Empty: as the address says.
        metric: Sparkplug: name of the metric, as ``Motor/Temperature``; empty: the channel's own name.
        scale: Factor from the payload's unit to the channel's.
        offset: Added after scaling, in the channel's unit.
    """

    topic: str = ""
    field: str = ""
    node: str = ""
    metric: str = ""
    scale: float = 1.0
    offset: float = 0.0

    @model_serializer(mode="wrap")
    def _without_younger(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without keys that say nothing and are younger than the section: digests stay as they were."""
        dumped: dict[str, Any] = dump(self)
        return {key: value for key, value in dumped.items() if value or key not in YOUNGER_KEYS}


class SourceMapping(Section):
    """How payloads, lines and columns map to channels; ``[source]`` of a profile.

    Attributes:
        time_field: Path or column of a sample's time; empty: the time at which it came.
        time_format: ``iso``, ``epoch_s``, ``epoch_ms``, ``epoch_us`` or ``epoch_ns``.
        device_field: Path or column that names the device, where one process runs several.
        header: Names of the columns of lines that come without a line of names.
        channels: Channel name to where its values are found; any other channel is found by its own name.
    """

    time_field: str = ""
    time_format: Literal["iso", "epoch_s", "epoch_ms", "epoch_us", "epoch_ns"] = "iso"
    device_field: str = ""
    header: tuple[str, ...] = ()
    channels: dict[str, ChannelMapping] = Field(default={})


class ChannelAlignment(Section):
    """What one channel does otherwise than ``[align]`` says. None: the same."""

    policy: AlignPolicy | None = None
    max_age_s: PositiveFloat | None = None
    stuck_s: PositiveFloat | None = None


class Alignment(Section):
    """How channels at different rates come to the profile's rate; ``[align]`` of a profile.

    Attributes:
        policy: ``last``: the newest value; ``mean``: of what was measured within half a step of the instant;
            ``interpolate``: on the line between the values before and after it.
        max_age_s: A value older than this is missing; of ``interpolate`` also the longest gap between two
            values. None: three steps.
        wait_s: How long an instant waits for values that are on their way. Whoever stamps no times is not
            waited for.
        stuck_s: A channel that repeats one value for longer than this is missing. None: it never is.
        channels: Channel name to what it does otherwise.
    """

    policy: AlignPolicy = "last"
    max_age_s: PositiveFloat | None = None
    wait_s: NonNegativeFloat = 1.0
    stuck_s: PositiveFloat | None = None
    channels: dict[str, ChannelAlignment] = Field(default={})

    def of(self, channel: str, step_s: float) -> tuple[AlignPolicy, float, float | None]:
        """A channel's policy, greatest age and time after which it is stuck.

        Args:
            channel: Its name.
            step_s: Time from one sample of the profile to the next.
        """
        own = self.channels.get(channel, ChannelAlignment())
        age_s = own.max_age_s or self.max_age_s or 3 * step_s
        return own.policy or self.policy, age_s, own.stuck_s or self.stuck_s
