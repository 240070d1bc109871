"""Policies of a profile's loop: drift, when to train, what a candidate must show, how it is rolled out."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from schemas.section import Fraction, Name, Probability, Section

LONGEST_SOAK_S = 28 * 86400.0
"""Longest soak where the profile names none: of groups with four canaries, and an alarm in ten days of each,
about half show within it that they do not alarm three times as often as predicted."""


class DriftPolicy(Section):
    """Drift watch on window aggregates of a cohort.

    Attributes:
        features: Watched features; empty: all of them and the score.
        window_s: Length of an aggregate window, seconds; a multiple of the summary period.
        lateness_s: How far the watermark trails the newest period, seconds of event time.
        detector: river detector run on standardised window means and spreads.
        delta: Confidence parameter of the detector.
        min_effect: Shift, in standard deviations of the window statistic from window to window, below which
            a detection is not reported.
        cooldown_windows: Windows after a verdict in which the same feature gets no other verdict.
        warmup_windows: Windows that set the baseline.
        seasonal_s: Length of a known season, seconds: values are compared with the same phase.
    """

    features: tuple[str, ...] = ()
    window_s: PositiveFloat = 300.0
    lateness_s: NonNegativeFloat = 60.0
    detector: Literal["page_hinkley", "adwin"] = "page_hinkley"
    delta: PositiveFloat = 0.005
    min_effect: NonNegativeFloat = 3.0
    cooldown_windows: NonNegativeInt = 12
    warmup_windows: PositiveInt = 8
    seasonal_s: PositiveFloat | None = None


class TrainingPolicy(Section):
    """When and from what a model is trained again.

    Attributes:
        auto: Start on drift verdicts by itself where the evidence allows it.
        schedule_s: Seconds between scheduled starts; None: no schedule.
        max_age_s: Age of the model in force at which a run starts; None: no limit.
        label_count: Number of new labels at which a run starts; None: no limit.
        min_effective_rows: Kish's effective sample size that a run waits for.
        max_wait_s: Longest time that a run waits for more rows before it ends unfinished.
        window_s: Longest span of event time before the cut that rows come from, where there is no onset.
        holdout_share: Last share of the span, by event time, that only the gates use.
        clip_weight: Largest weight of a row, as a multiple of the median weight.
        device_share: Largest share of the total weight that one device may have.
        regime_share: Share of a cohort that must have moved at once for a regime.
        fault_similarity: Cosine to a fault's signature from which a shift counts as that fault.
        cooldown_s: Seconds after a run ends before another may start automatically.
        renewals: Most further models of a change that was learnt, each on more of the new regime.
        alarms_per_device_day: False alarms that a first model may raise; None: one. Its calibration puts the
            distance that keeps to them at the mildest rule's ``enter``.
        trainer: Entry point of the trainer that makes this profile's models; empty: the built-in ones.
    """

    auto: bool = True
    schedule_s: PositiveFloat | None = None
    max_age_s: PositiveFloat | None = None
    label_count: PositiveInt | None = None
    min_effective_rows: PositiveFloat = 200.0
    max_wait_s: PositiveFloat = 3600.0
    window_s: PositiveFloat = 7 * 86400.0
    holdout_share: Annotated[float, Field(gt=0, lt=1)] = 0.3
    clip_weight: PositiveFloat = 20.0
    device_share: Probability = 0.25
    regime_share: Fraction = 0.5
    fault_similarity: Fraction = 0.6
    cooldown_s: NonNegativeFloat = 60.0
    renewals: NonNegativeInt = 2
    alarms_per_device_day: PositiveFloat | None = None
    trainer: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]{0,63})?$")] = ""


class GatePolicy(Section):
    """What a candidate must show before it is signed.

    Attributes:
        min_gain: Least gain in quality over the champion; the whole 95 % interval must lie above it.
        min_renewal_gain: The same as a share of the champion's loss (1 less its quality), where the champion
            knows the devices' normal already and no person asked for the run.
        min_recall: Least recall on the fault bank at the first rule's ``enter``.
        max_recall_loss: Largest loss of recall against the champion.
        parity: Largest difference of a score from the training library's.
        max_latency_ms: Largest median time for one window on the device runtime, one thread.
        max_latency_ratio: The same as a multiple of the champion's, measured in turn in the same process.
        max_memory_mb: Most memory that loading and running it may add.
        max_bytes: Largest size of the bundle.
        opset: Highest operator set that the fleet's runtimes know.
        also: Gates of installed packages that a candidate must pass, too (entry points ``edgeloop.gates``).
    """

    min_gain: float = 0.0
    min_renewal_gain: Fraction = 0.02
    min_recall: Fraction = 0.8
    max_recall_loss: Fraction = 0.05
    parity: PositiveFloat = 1e-5
    max_latency_ms: PositiveFloat = 5.0
    max_latency_ratio: PositiveFloat = 3.0
    max_memory_mb: PositiveFloat = 64.0
    max_bytes: PositiveInt = 4 * 1024**2
    opset: PositiveInt = 17
    also: tuple[Name, ...] = ()


class RolloutPolicy(Section):
    """How a signed model reaches a group.

    Attributes:
        auto: Start a rollout for each model that passes its gates.
        canary_share: Share of a group in the canary ring; bounded by the signed pool.
        phases: Shares of the group that the broad ring treats, one after the other.
        holdout_share: Share that stays on baseline through the last soak; 0: a tenth of a group of 20 devices
            or more, none of a smaller one.
        no_holdout: Keep no holdout, however large the group is.
        trial_windows: Live windows in shadow before a device commits.
        watch_windows: Windows after a commit in which a device may still restore by itself.
        soak_s: Time between a phase's last report and the next phase.
        longest_soak_s: To what a soak is lengthened while the evidence is open; None: 28 days. No more than
            ``soak_s``: soaks are never lengthened, and what is open holds nothing up.
        silent_s: Time without a report after which a device that took an offer counts as failed.
        reach_s: Time after which devices that took no offer are left for later; they bound the coverage.
        max_failed: Failed share of a phase's devices above which a rollout aborts.
        min_devices: Devices with a shadow below which a person decides (``not shown``).
        max_alarm_gain: Largest rise of the share of windows with an alarm, at the upper end of its interval.
    """

    auto: bool = True
    canary_share: Probability = 0.2
    phases: tuple[Probability, ...] = (1.0,)
    holdout_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    no_holdout: bool = False
    trial_windows: PositiveInt = 30
    watch_windows: PositiveInt = 60
    soak_s: NonNegativeFloat = 600.0
    longest_soak_s: PositiveFloat | None = None
    silent_s: PositiveFloat = 900.0
    reach_s: PositiveFloat = 3600.0
    max_failed: Fraction = 0.1
    min_devices: PositiveInt = 3
    max_alarm_gain: Fraction = 0.02

    @property
    def soak_limit_s(self) -> float:
        """Longest soak, seconds; never below ``soak_s``."""
        longest = LONGEST_SOAK_S if self.longest_soak_s is None else self.longest_soak_s
        return max(self.soak_s, longest)

    @property
    def lengthens(self) -> bool:
        """Whether a soak may be lengthened while the evidence is open."""
        return self.soak_limit_s > self.soak_s
