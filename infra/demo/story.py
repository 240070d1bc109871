"""What a demo shows: changes that the entry point (``edgeloop.demos``) of a generator tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from edge_producer.sources.scenario import Injection
from schemas.errors import ProfileError
from schemas.plug_ins import load_plug_in

GROUP = "edgeloop.demos"


@dataclass(frozen=True)
class DemoSize:
    """What a demo is where nobody says more.

    Attributes:
        devices: Simulated devices.
        seconds: Length of the simulation.
    """

    devices: int = 20
    seconds: float = 180.0


@dataclass(frozen=True)
class StoryTimes:
    """When what happens, seconds after the demo's start.

    Attributes:
        wear_s: None: nothing wears out, because the loop does not run.
    """

    fault_s: float
    drift_s: float
    wear_s: float | None


@dataclass(frozen=True)
class DemoStory:
    """The changes of one demo.

    Attributes:
        noun: What the devices are, in the plural.
        fault: Of one device; it must raise alarms.
        drift: A new normal, which the loop must learn.
        drift_channel: Channel that the drift moves; its mean is a feature.
        wear: Of many devices at once; it must raise alarms, and must not be learnt. None: there is none.
        told: For people, each part a sentence without its stop; ``{drifted}`` is the number of devices that
            the drift hits.
        setting: What holds from the start, and is no change.
        found_by: By kind of fault, the further output that is to find it, where no rule reads the score.
    """

    noun: str
    fault: Injection
    drift: Injection
    drift_channel: str
    wear: Injection | None
    told: tuple[str, ...]
    setting: tuple[Injection, ...] = ()
    found_by: Mapping[str, str] = field(default_factory=dict)

    @property
    def changes(self) -> tuple[Injection, ...]:
        """What changes, the fault first."""
        return tuple(i for i in (self.fault, self.drift, self.wear) if i is not None)

    @property
    def injections(self) -> tuple[Injection, ...]:
        """All that is injected, the fault first."""
        return (*self.changes, *self.setting)


def degrade_together(site: tuple[str, ...], failing: str, share: float) -> tuple[str, ...]:
    """This share of a site's devices, without the one that fails early: they degrade together later."""
    others = [device for device in site if device != failing]
    return tuple(others[: round(share * len(site))])


StoryTeller = Callable[[tuple[tuple[str, ...], ...], int, StoryTimes], DemoStory]
"""Called with the devices of each site, the seed and the times. It may have a ``size``, its ``DemoSize``."""


def story_of(generator: str) -> StoryTeller:
    """What tells the story of a generator's devices.

    Raises:
        ProfileError: Nothing that is installed does.
    """
    told: StoryTeller = load_plug_in(
        GROUP,
        generator,
        "demo",
        ProfileError,
        lambda known: (
            f"generator '{generator}' has no demo: {GROUP} has no entry point of its name; there are: {known}"
        ),
    )
    return told


def usual_size(generator: str) -> DemoSize:
    """How large the demo of a generator's devices is where nobody says so.

    Raises:
        ProfileError: As ``story_of``.
    """
    size = getattr(story_of(generator), "size", None)
    return size if isinstance(size, DemoSize) else DemoSize()
