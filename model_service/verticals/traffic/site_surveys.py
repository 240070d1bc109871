"""Surveys of sites: which streets join which intersections. Without one, each intersection stands by itself.

A survey is a file ``<site>.json`` (``RoadSite.as_json``) in the folder that the variable ``TRAFFIC_SURVEYS``
names, for trainer and gate alike: the same survey, or the gate computes other plans and refuses.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from schemas.verticals.traffic.road_site import Arm, RoadSite
from schemas.verticals.traffic.standard_junction import single_site, standard_junction

FOLDER = "TRAFFIC_SURVEYS"


def survey_of(site: str, devices: Sequence[str], environment: Mapping[str, str] = os.environ) -> RoadSite:
    """The streets of one site's intersections.

    Args:
        site: Its name, which is the file's.
        devices: Ids of its intersections.
        environment: Names the folder; without the folder, or without the site's file, there are no streets
            between intersections.

    Raises:
        ValueError: The survey cannot be read, lacks a device, or has other phases or bounds than the shipped
            intersection.
    """
    path = Path(environment.get(FOLDER, "")) / f"{site}.json"
    if not environment.get(FOLDER) or not path.is_file():
        return _apart(devices)
    try:
        found = RoadSite.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, ValueError) as exc:
        raise ValueError(f"survey {path.name}: {exc}: correct the file in {FOLDER}") from exc
    if missing := sorted(set(devices) - set(found.junctions)):
        raise ValueError(f"survey {path.name} has no intersection {', '.join(missing[:5])}: add it")
    unlike = sorted(name for name in devices if found.junctions[name] != standard_junction())
    if unlike:
        raise ValueError(
            f"survey {path.name}: phases or bounds of {', '.join(unlike[:5])} differ from its devices'"
        )
    return _of_devices(found, devices)


def _apart(devices: Sequence[str]) -> RoadSite:
    sites = [single_site(name) for name in devices]
    junctions = {name: junction for site in sites for name, junction in site.junctions.items()}
    return RoadSite(junctions, tuple(arm for site in sites for arm in site.arms))


def _of_devices(site: RoadSite, devices: Sequence[str]) -> RoadSite:
    """Without the intersections that are no devices: what came from them comes from outside."""
    own = {arm.name for arm in site.arms if arm.junction in devices}
    arms = tuple(
        Arm(a.name, a.junction, a.phase, a.saturation, a.share, tuple(f for f in a.feeders if f.arm in own))
        for a in site.arms
        if a.name in own
    )
    return RoadSite({name: site.junctions[name] for name in devices}, arms)
