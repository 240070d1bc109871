"""The site of a group of intersections: arms, which arm feeds which, travel times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from schemas.verticals.traffic.junction import INTERGREEN_S, Junction, Phase


@dataclass(frozen=True, slots=True)
class Feeder:
    """Vehicles that come from another arm.

    Attributes:
        arm: Where they come from.
        share: Of the vehicles that leave that arm, in [0, 1].
        travel_s: From stop line to stop line, in free flow.
    """

    arm: str
    share: float
    travel_s: float


@dataclass(frozen=True, slots=True)
class Arm:
    """One queue before a stop line: the lanes of one approach that are green in one phase.

    Attributes:
        name: Unique in the site.
        junction: Id of the intersection.
        phase: Number of the phase in which it is green.
        saturation: Vehicles a second that leave its standing queue.
        share: Of the vehicles that its phase serves, in [0, 1].
        feeders: Arms that lead into it; what they do not bring comes at random from outside.
    """

    name: str
    junction: str
    phase: int
    saturation: float
    share: float
    feeders: tuple[Feeder, ...] = ()


@dataclass(frozen=True)
class RoadSite:
    """Intersections and arms of one group.

    Raises:
        ValueError: An arm names an intersection, phase or feeder that does not exist, or an arm lets out more
            than all its vehicles.
    """

    junctions: Mapping[str, Junction]
    arms: tuple[Arm, ...]

    def __post_init__(self) -> None:
        names = {arm.name for arm in self.arms}
        if len(names) != len(self.arms):
            raise ValueError("two arms have one name")
        let_out: dict[str, float] = {}
        for arm in self.arms:
            if arm.junction not in self.junctions or not 0 <= arm.phase < len(
                self.junctions[arm.junction].phases
            ):
                raise ValueError(f"arm {arm.name}: no phase {arm.phase} of {arm.junction}")
            for feeder in arm.feeders:
                if feeder.arm not in names:
                    raise ValueError(f"arm {arm.name}: no arm {feeder.arm}")
                let_out[feeder.arm] = let_out.get(feeder.arm, 0.0) + feeder.share
        for name, share in let_out.items():
            if share > 1 + 1e-6:
                raise ValueError(f"arm {name}: its feeders' shares sum to {share:.3f}, at most 1")

    def flows(self, phases: Mapping[str, tuple[float, ...]]) -> dict[str, float]:
        """Vehicles a second of each arm, from those of each intersection's phases."""
        return {arm.name: phases[arm.junction][arm.phase] * arm.share for arm in self.arms}

    def entering(self, flows: Mapping[str, float]) -> dict[str, float]:
        """Vehicles a second that reach each arm from outside: what its feeders do not bring, 0 at least."""
        return {
            arm.name: max(flows[arm.name] - sum(f.share * flows[f.arm] for f in arm.feeders), 0.0)
            for arm in self.arms
        }

    def as_json(self) -> dict[str, Any]:
        """As a JSON value."""
        junctions = {
            name: {
                "intergreen_s": j.intergreen_s,
                "conflicts": sorted(sorted(pair) for pair in j.conflicts),
                "phases": [
                    {
                        "name": p.name,
                        "streams": sorted(p.streams),
                        "saturation": p.saturation,
                        "min_green_s": p.min_green_s,
                        "max_green_s": p.max_green_s,
                    }
                    for p in j.phases
                ],
            }
            for name, j in sorted(self.junctions.items())
        }
        arms = [
            {
                "name": a.name,
                "junction": a.junction,
                "phase": a.phase,
                "saturation": a.saturation,
                "share": a.share,
                "feeders": [{"arm": f.arm, "share": f.share, "travel_s": f.travel_s} for f in a.feeders],
            }
            for a in self.arms
        ]
        return {"junctions": junctions, "arms": arms}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """From ``as_json``.

        Raises:
            ValueError: Something is missing, or does not fit.
        """
        try:
            junctions = {
                str(name): Junction(
                    tuple(Phase(**{**p, "streams": frozenset(p["streams"])}) for p in j["phases"]),
                    frozenset(frozenset(pair) for pair in j["conflicts"]),
                    float(j.get("intergreen_s", INTERGREEN_S)),
                )
                for name, j in value["junctions"].items()
            }
            arms = tuple(
                Arm(**{**a, "feeders": tuple(Feeder(**f) for f in a.get("feeders", ()))})
                for a in value["arms"]
            )
        except (KeyError, TypeError, AttributeError) as exc:
            raise ValueError(f"no site: {exc!r}") from exc
        return cls(junctions, arms)
