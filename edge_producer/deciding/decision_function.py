"""What a decision function is asked and answers, and how the one that a profile names is found."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from schemas.errors import ProfileError
from schemas.plug_ins import load_plug_in
from schemas.profile import Profile

GROUP = "edgeloop.decisions"


@dataclass(frozen=True, slots=True)
class DecisionRequest:
    """What a decision function knows of a window. It must look at nothing else, its clock least of all.

    Attributes:
        event_time: UTC end of the window.
        features: By the names of the profile's features; NaN where missing.
        scores: By output of the model, ``score`` is the primary one; None: there is no usable one. While the
            fail-safe is in force for want of a score, the function is not asked.
        action: What the rules chose.
        parameters: In force at ``event_time``, computed in the cloud; empty: none. Read-only; arrays are
            tuples.
        state: What the function returned for the device's window before; None: nothing yet.
    """

    device_id: str
    event_time: datetime
    features: Mapping[str, float]
    scores: Mapping[str, float | None]
    action: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    state: Any = None


@dataclass(frozen=True, slots=True)
class DecisionAnswer:
    """What a decision function wants.

    Attributes:
        action: One that the profile names: ``request.action``, or another one.
        numbers: That the action carries, by name; clipped to the bounds of the profile.
        state: A JSON value of at most 16 KiB, for the next window.
        calibration: What it has learnt on this device and decided by, a JSON value; None: nothing. It stays
            here: where the profile says ``calibrates``, the row names it by a keyed hash.
        counts: What happened with this window, by name, for the status file.
    """

    action: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    state: Any = None
    calibration: Any = None
    counts: Mapping[str, int] = field(default_factory=dict)


DecisionFunction = Callable[[DecisionRequest], DecisionAnswer]
"""May have an attribute ``check_parameters(values)``, which raises ``ValueError`` for parameters that
it cannot go by."""


def load_decision_function(name: str, device_id: str, profile: Profile) -> DecisionFunction:
    """The function of a name, for one device.

    The entry point is a function, or a class: then one is made for each device, with its id and its profile.

    Raises:
        ProfileError: None is installed, or two are, or it cannot be imported or made.
    """
    loaded = load_plug_in(
        GROUP,
        name,
        "decision function",
        ProfileError,
        lambda known: (
            f"decision function '{name}' is not installed (there are: {known}); install the package that has "
            f"the entry point '{name}' of the group {GROUP} beside edgeloop"
        ),
    )
    try:
        is_class = inspect.isclass(loaded)
        made: DecisionFunction = loaded(device_id, profile) if is_class else loaded
    except (Exception, SystemExit) as exc:  # the code is a user's: whatever it raises
        raise ProfileError(
            f"decision function '{name}' cannot be loaded: {type(exc).__name__}: {exc}"
        ) from exc
    return made


def try_parameters(profile: Profile, device_id: str, values: Mapping[str, Any]) -> None:
    """Return if the profile's decision function can go by parameters.

    Raises:
        ValueError: It cannot; says why.
    """
    if why := why_parameters_refused(profile, device_id, values):
        raise ValueError(why)


def why_parameters_refused(profile: Profile, device_id: str, values: Mapping[str, Any]) -> str:
    """Why the profile's decision function cannot go by parameters; empty: it can, or does not say.

    The code is a user's, and may take its time: call it in a process that may be ended.
    """
    name = profile.decision.function
    if name is None:
        return "the profile has no decision function, which would use them"
    try:
        check = getattr(load_decision_function(name, device_id, profile), "check_parameters", None)
        if check is not None:
            check(values)
    except ProfileError as exc:
        return str(exc)
    except (Exception, SystemExit) as exc:  # noqa: BLE001  (as above)
        return f"decision function '{name}' refuses them: {type(exc).__name__}: {exc}"
    return ""
