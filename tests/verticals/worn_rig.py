"""Wearables with their spool: what they sense, keep and seal, with a prior in force."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import timedelta

from edge_producer.deciding.decision_parameters import DecisionParameters, ParameterSet
from edge_producer.device import Device
from tests.edge_producer.spool_rig import SpoolRig
from tests.verticals.wearers import PRIOR, START, Pulse, pulse_profile, window


class WornRig(SpoolRig):
    """As `SpoolRig`, under the profile with a pulse."""

    def __init__(self, folder, prior: Mapping[str, float] = PRIOR, **given):
        self.prior = prior
        super().__init__(folder, pulse_profile(), **given)

    def _begin_boots(self) -> None:
        held = DecisionParameters()
        held.follow(ParameterSet("prior_wearable-1", self.prior, START - timedelta(days=1)))
        host = replace(self._host, parameters=dict.fromkeys(self.names, held))
        self.devices = {
            n: Device(self.identities[n], self.profile, Pulse(), host, self.spool.state(n))
            for n in self.names
        }

    def sense(self, values: Iterable[float], device_id: str = "d-1", motion: float = 0.0) -> None:
        for value in values:
            self.devices[device_id].process(window(value, self.k, device_id, motion=motion))
            self.k += 1
            self.now += 1.0
