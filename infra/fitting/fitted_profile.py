"""A profile's text after a fit: its model family, and the thresholds that the budget asks for. Pure."""

from __future__ import annotations

import re

from schemas.decision_policy import DecisionRule
from schemas.errors import ProfileError
from schemas.output_names import PRIMARY
from schemas.profile import Profile
from schemas.profile_file import parse_profile

_SECTION = re.compile(r"^\s*\[+\s*([A-Za-z_.]+)\s*\]+")
_RULES = "decision.rules"
_INSPECT = """
[[decision.rules]]
action = "inspect"
enter = {enter!r}
leave = {leave!r}
"""


def fitted_text(
    text: str, family: str, enter: float, leave: float, alarms_per_device_day: float
) -> tuple[str, Profile]:
    """The text with the model's name, the budget, and the mildest rule at its threshold; all else as it was.

    More severe rules that began below the new threshold begin at it.

    Raises:
        ProfileError: The text is no profile, or is written in a way that cannot be changed line by line.
    """
    before = parse_profile(text, "the profile")
    rules = before.decision.rules
    mildest = next(iter(before.decision.score_rules), None)
    enters = [_begins(r, mildest, enter) for r in rules]
    leaves = [leave if r is mildest else r.leave for r in rules]
    budget = f"alarms_per_device_day = {alarms_per_device_day!r}"
    lines, section, rule, named, stated = [], "", -1, False, False
    for line in text.splitlines():
        head = _SECTION.match(line)
        if head:
            section = head.group(1)
            rule += section == _RULES
        value = ""
        if section == "model" and _sets(line, "name"):
            value, named = f'"{family}"', True
        elif section == _RULES and _sets(line, "enter"):
            value = repr(enters[rule])
        elif section == _RULES and _sets(line, "leave"):
            value = repr(leaves[rule])
        if section == "training" and _sets(line, "alarms_per_device_day"):
            continue
        lines.append(f"{line.split('=')[0]}= {value}" if value else line)
        if head and section == "training":
            lines.append(budget)
            stated = True
    if not named:
        lines += ["", "[model]", f'name = "{family}"']
    if not stated:
        lines += ["", "[training]", budget]
    made = "\n".join(lines) + "\n" + ("" if rules else _INSPECT.format(enter=enter, leave=leave))
    after = parse_profile(made, "the fitted profile")
    moved = after.decision.alarm == enter or (rules and mildest is None)
    if after.model.family != family or not moved:
        raise ProfileError("the profile's [model] and [decision] cannot be changed: write a key on each line")
    return made, after


def _begins(rule: DecisionRule, mildest: DecisionRule | None, enter: float) -> float:
    """Where a rule begins after the fit; one that reads another output than the score stays as it is."""
    if rule.output != PRIMARY:
        return rule.enter
    return enter if rule is mildest else max(enter, rule.enter)


def in_family(profile: Profile, family: str, alarms_per_device_day: float) -> Profile:
    """The profile with its own family and a budget; its rules stay: the model is calibrated to them."""
    model = profile.model.model_copy(update={"name": family})
    training = profile.training.model_copy(update={"alarms_per_device_day": alarms_per_device_day})
    return profile.model_copy(update={"model": model, "training": training})


def _sets(line: str, key: str) -> bool:
    return re.match(rf"\s*{key}\s*=", line) is not None
