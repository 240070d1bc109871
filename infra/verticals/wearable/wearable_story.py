"""The wearables' demo: a heart races, electrodes of another batch come, hearts of one site race together."""

from __future__ import annotations

from edge_producer.sources.scenario import Injection
from infra.demo.story import DemoSize, DemoStory, StoryTimes, degrade_together

BATCH_SHARE = 0.8
"""Of all wearers."""
BATCH_GAIN = 1.5
RACING_SHARE = 0.4
"""Of the first site's wearers."""
FAULT_LASTS_S = 25.0


class WearableStory:
    """See ``StoryTeller``.

    Attributes:
        size: Five windows a second of each wearer: the loop takes longer than with machines.
    """

    size = DemoSize(seconds=260.0)

    def __call__(self, sites: tuple[tuple[str, ...], ...], seed: int, times: StoryTimes) -> DemoStory:
        """What happens to the wearers of these sites.

        One wearer's heart races; most wearers get electrodes of another batch, through which the ECG is half
        as high again, and the loop must learn that; hearts of several wearers of the first site race
        together, which it must not learn.
        """
        first = sites[0]
        failing = first[seed % len(first)]
        fault = Injection(
            kind="tachycardia", start_s=times.fault_s, duration_s=FAULT_LASTS_S, devices=(failing,)
        )
        drift = Injection(
            kind="recalibration", start_s=times.drift_s, channel="ecg", gain=BATCH_GAIN, share=BATCH_SHARE
        )
        told = [
            f"at {fault.start_s:.0f} s the heart of {failing} begins to race",
            f"at {drift.start_s:.0f} s {{drifted}} get electrodes with {BATCH_GAIN:.0%} of the height",
        ]
        together = _together(first, failing, times)
        if together is not None:
            told.append(f"from {together.start_s:.0f} s {len(together.devices)} more hearts race together")
        return DemoStory("wearers", fault, drift, "ecg", together, tuple(told))


def _together(first: tuple[str, ...], failing: str, times: StoryTimes) -> Injection | None:
    racing = degrade_together(first, failing, RACING_SHARE)
    if times.wear_s is None or not racing:
        return None
    return Injection(kind="tachycardia", start_s=times.wear_s, severity=0.9, devices=racing)


STORY = WearableStory()
