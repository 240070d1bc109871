"""Keeps what models have learnt of one device: over restarts, swaps and rollbacks, by model version.

What some graphs read of the windows before is the device's own: one for all versions.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from typing import Any

from edge_producer.kept_inputs import PARTS
from edge_producer.window import KeepsInputs, LearnsReference, Predictor
from schemas.profile import Profile

log = logging.getLogger(__name__)

KEPT_VERSIONS = 3
"""As many as a device keeps sets of models: what it can return to without a network."""


class ReferenceKeeper:
    """One device's references.

    Args:
        device_id: Whose.
        profile: References of other features or units are not taken up.
        state: From ``export`` before a restart; None where there was none.
    """

    def __init__(self, device_id: str, profile: Profile, state: Mapping[str, Any] | None) -> None:
        self._device_id = device_id
        text = ",".join(f"{spec.name} [{spec.unit}]" for spec in profile.feature_specs())
        self._features = hashlib.sha256(text.encode()).hexdigest()[:16]
        same = state is not None and state.get("features") == self._features
        self._kept: dict[str, Any] = dict(state["by_version"]) if same and state is not None else {}
        given = state if same and state is not None else {}
        self._inputs = {name: given[name] for name in PARTS if given.get(name) is not None}

    def begin(self, model: Predictor) -> None:
        """Give a model, at a start, what it had learnt before."""
        if isinstance(model, LearnsReference) and model.version in self._kept:
            try:
                model.restore_reference(self._device_id, self._kept[model.version])
            except (ValueError, TypeError, KeyError):
                log.exception("a reference is damaged and learnt anew", extra={"device_id": self._device_id})
        if isinstance(model, KeepsInputs):
            self._restore(model)

    def _restore(self, model: KeepsInputs) -> None:
        for name, state in self._inputs.items():
            try:
                model.restore_kept(self._device_id, name, state)
            except (ValueError, TypeError, KeyError):
                what = f"what is kept as '{name}' is damaged and begun anew"
                log.exception(what, extra={"device_id": self._device_id})

    def change(self, before: Predictor, after: Predictor) -> None:
        """Give a model that comes into use what it had learnt, else what the one before has.

        A model of before finds its own reference: what another one learnt meanwhile is not put in its place.
        """
        self._note(before)
        self._hand_on(before, after)
        if isinstance(after, KeepsInputs):
            after.go_on_from(self._device_id, before)

    def _hand_on(self, before: Predictor, after: Predictor) -> None:
        if isinstance(after, LearnsReference):
            if after.export_reference(self._device_id) is None:
                self.begin(after)
            if after.export_reference(self._device_id) is not None:
                return
        after.take_over(self._device_id, before)

    def relearn(self, *models: Predictor) -> None:
        """Have the device learnt anew from the next window on, by every model."""
        self._kept.clear()
        for model in models:
            if isinstance(model, LearnsReference):
                model.relearn(self._device_id)

    def export(self, active: Predictor) -> dict[str, Any]:
        """State as a JSON value."""
        self._note(active)
        return {"features": self._features, "by_version": self._kept, **self._inputs}

    def _note(self, model: Predictor) -> None:
        if isinstance(model, KeepsInputs):
            self._inputs |= model.export_kept(self._device_id)
        if not isinstance(model, LearnsReference):
            return
        learnt = model.export_reference(self._device_id)
        if learnt is not None:
            self._kept.pop(model.version, None)
            self._kept[model.version] = learnt
            while len(self._kept) > KEPT_VERSIONS:
                del self._kept[next(iter(self._kept))]
