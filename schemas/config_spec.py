"""Configurations of a profile: parameters that the cloud computes for a group, with schema and bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from schemas.errors import BundleError
from schemas.section import Name, Section

ParameterValue = float | list[Any]
"""A number, or nested lists of numbers."""
Parameters = Mapping[str, Any]
"""Values by the parameter's name; of a parameter of each device, a mapping from its id to the value."""
EntryPointName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
MAX_NUMBERS = 200_000
"""Most numbers of one configuration, over all devices."""


class ParameterSpec(Section):
    """One parameter: a table of numbers, and the bounds that every number of it keeps.

    Attributes:
        shape: Lengths of the table's axes, outermost first; empty: one number.
        each: ``device``: each device of the group has a table of its own; ``group``: all share one.
    """

    name: Name
    unit: str
    min: float
    max: float
    shape: tuple[PositiveInt, ...] = Field(default=(), max_length=4)
    each: Literal["group", "device"] = "group"
    description: str = ""

    @property
    def numbers(self) -> int:
        """Numbers of one table."""
        return math.prod(self.shape)

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if not (math.isfinite(self.min) and math.isfinite(self.max) and self.min <= self.max):
            raise ValueError(f"parameter {self.name}: min {self.min} must not be above max {self.max}")
        if self.numbers > MAX_NUMBERS:
            raise ValueError(f"parameter {self.name}: {self.numbers} numbers; the limit is {MAX_NUMBERS}")
        return self


class ConfigSpec(Section):
    """A family of configurations.

    Attributes:
        family: Its family: two keys of its own sign it, as those of a model.
        trainer: Entry point in ``edgeloop.configs`` that computes the parameters.
        every_s: Seconds between two computations for one group.
        window_s: Longest span of event time before the newest row that the computation reads, seconds.
        unit: What moves as a whole in a rollout: a site, or one device.
        parameters: Schema of what it computes.
        valid_after_s: Seconds from the computation to ``valid_from``, for gates, signatures and the first
            devices.
        lead_s: Seconds from a channel document's issue to the switch that it asks for, so that all devices of
            a site have it by then.
        gates: Entry points in ``edgeloop.config_gates`` that it must pass besides ours.
        judge: Entry point in ``edgeloop.config_judges`` that judges each phase; empty: alarms and missing
            windows.
    """

    family: Name
    trainer: EntryPointName
    every_s: PositiveFloat
    window_s: PositiveFloat = 7 * 86400.0
    unit: Literal["site", "device"] = "site"
    parameters: tuple[ParameterSpec, ...] = Field(min_length=1)
    valid_after_s: NonNegativeFloat = 3600.0
    lead_s: NonNegativeFloat = 300.0
    gates: tuple[EntryPointName, ...] = ()
    judge: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]{0,63})?$")] = ""

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        names = [p.name for p in self.parameters]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"config {self.family}: parameters named twice: {twice}")
        return self


def check_configs(configs: tuple[ConfigSpec, ...], model_family: str) -> None:
    """Return if the families of a profile are told apart.

    Raises:
        ValueError: Two have one name, or one has that of the model family.
    """
    families = [model_family, *(c.family for c in configs)]
    if twice := sorted({f for f in families if families.count(f) > 1}):
        raise ValueError(f"configs: family {twice[0]} is named twice, or is the model's")


def check_parameters(specs: tuple[ParameterSpec, ...], values: Parameters) -> dict[str, Any]:
    """The values as plain JSON values, if they are what the schema says.

    Args:
        specs: The schema.
        values: By parameter; numpy's numbers and arrays count as numbers and lists.

    Raises:
        BundleError: A parameter is missing or not in the schema, has another shape, is not a finite number,
            or lies outside its bounds.
    """
    names = [spec.name for spec in specs]
    if unknown := sorted(set(values) - set(names)):
        raise BundleError(f"parameters {', '.join(map(str, unknown))} are not in the schema")
    if missing := [name for name in names if name not in values]:
        raise BundleError(f"parameters {', '.join(missing)} are missing")
    found = {spec.name: _of_spec(spec, values[spec.name]) for spec in specs}
    total = sum(s.numbers * (len(found[s.name]) if s.each == "device" else 1) for s in specs)
    if total > MAX_NUMBERS:
        raise BundleError(f"{total} numbers; the limit is {MAX_NUMBERS}")
    return found


def parameters_of(specs: tuple[ParameterSpec, ...], values: Parameters, device_id: str) -> dict[str, Any]:
    """What one device gets of checked values.

    Raises:
        KeyError: A parameter of each device has no table for this one.
    """
    return {s.name: values[s.name][device_id] if s.each == "device" else values[s.name] for s in specs}


def _of_spec(spec: ParameterSpec, value: Any) -> Any:
    if spec.each == "group":
        return _table(spec, value, spec.shape, spec.name)
    if not isinstance(value, Mapping):
        raise BundleError(f"parameter {spec.name}: each device has a table of its own: a mapping from its id")
    return {
        str(device): _table(spec, table, spec.shape, f"{spec.name} of {device}")
        for device, table in sorted(value.items())
    }


def _table(spec: ParameterSpec, value: Any, shape: tuple[int, ...], where: str) -> ParameterValue:
    plain = value.tolist() if hasattr(value, "tolist") else value
    if not shape:
        return _number(spec, plain, where)
    if not isinstance(plain, (list, tuple)) or len(plain) != shape[0]:
        raise BundleError(f"parameter {where}: not of shape {list(spec.shape)}")
    return [_table(spec, part, shape[1:], where) for part in plain]


def _number(spec: ParameterSpec, value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise BundleError(f"parameter {where}: not a finite number where the schema has one")
    if not spec.min <= value <= spec.max:
        raise BundleError(
            f"parameter {where}: {value:g} {spec.unit} lies outside {spec.min:g} to {spec.max:g}"
        )
    return float(value)
