"""A profile's first model: chosen and fitted on a history of raw windows, judged on its last part. Pure.

The last share of each device's history (`training.holdout_share`) is the test part. It takes no part in
choosing, fitting or thresholds; what the model does there is what the report says of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_service.detectors.alarm_budget import AlarmRule
from model_service.detectors.choosing import DetectorChoice, bank_recall, choose
from model_service.detectors.generic_bank import generic_bank
from model_service.detectors.history import FeatureHistory
from model_service.detectors.synthetic_windows import synthetic_windows
from model_service.detectors.user_trainer import detector_kinds
from model_service.models.bundle_files import BundleFiles
from model_service.models.factory_models import learnt_bundle
from model_service.models.fault_bank import BankFile, FaultBank, parse_bank
from model_service.models.features import logged_features, profile_features
from model_service.models.recent_rows import weight_read
from schemas.errors import DatasetError
from schemas.manifest import TrainingFacts
from schemas.profile import Profile
from schemas.recent_level import WindowTiming

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
Ints = NDArray[np.int64]

SCRIPT = "model_service/detectors/first_model.py"
STRETCH = 15
"""Consecutive windows behind the baselines' means, as in the factory's model."""
FIRST_MAJOR = 1
"""Of a model that was fitted to a history: 0 stands for models that ship with every device."""


@dataclass(frozen=True, slots=True, eq=False)
class DeviceWindows:
    """One device's part of a history, in the order of time.

    Attributes:
        device: Its id.
        end_us: End of each window, microseconds since 1970, shape (n,).
        samples: Shape (n, W, C); what is not finite is missing.
        faulty: Windows that overlap a labelled fault, shape (n,).
        excluded: Windows that a person left out, shape (n,).
    """

    device: str
    end_us: Ints
    samples: NDArray[np.floating]
    faulty: Flags
    excluded: Flags


@dataclass(frozen=True, slots=True, eq=False)
class TimedHistory:
    """Rows of features, whose and when.

    Attributes:
        devices: Ids; ``history.device`` holds their numbers.
        end_us: End of each window, microseconds since 1970, shape (n,).
        early: Rows that are not the test part, shape (n,).
    """

    devices: tuple[str, ...]
    end_us: Ints
    history: FeatureHistory
    early: Flags


@dataclass(frozen=True, slots=True, eq=False)
class JudgedHistory:
    """What the fitted model says of every window of the history; all arrays of shape (n,).

    Attributes:
        devices: Ids; ``device`` holds their numbers.
        score: NaN where there is none.
        alarm: Windows at which an alarm would have started.
        test: Windows of the test part.
        features: Shape (n, F).
    """

    devices: tuple[str, ...]
    device: Ints
    end_us: Ints
    score: Array
    alarm: Flags
    test: Flags
    faulty: Flags
    excluded: Flags
    features: Array


@dataclass(frozen=True, slots=True)
class OutcomeOnTest:
    """How the model did on the test part, which it never saw.

    Attributes:
        healthy_windows: Windows there that count as healthy.
        device_days: Their time.
        false_alarms: Alarms in them.
        labelled_windows: Windows there with a labelled fault.
        labelled_recall: Share of those that score high; None: there are none.
        generic_recall: Share of generic faults detected there, by kind of fault and channel, by size.
    """

    healthy_windows: int
    device_days: float
    false_alarms: int
    labelled_windows: int
    labelled_recall: float | None
    generic_recall: Mapping[str, Sequence[float]]

    @property
    def mean_generic_recall(self) -> float:
        """Mean over kinds and sizes; 0 where nothing could be tested."""
        shares = [share for by_size in self.generic_recall.values() for share in by_size]
        return float(np.mean(shares)) if shares else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class FirstModel:
    """The model, how it was chosen, and what it does."""

    bundle: BundleFiles
    choice: DetectorChoice
    bank: BankFile
    judged: JudgedHistory
    outcome: OutcomeOnTest


def fit_first_model(
    profile: Profile,
    devices: Sequence[DeviceWindows],
    family: str,
    alarms_per_device_day: float,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> FirstModel:
    """The first model of a profile.

    Args:
        profile: Channels, features, decision rules and the share of the test part.
        devices: The history.
        family: Name of the model family.
        alarms_per_device_day: Budget of false alarms.
        seed: Of the generic faults.
        progress: Told each step.

    Raises:
        DatasetError: The history is too short, or too much of it is missing.
    """
    if not devices:
        raise DatasetError("the history has no window: it is shorter than the profile's window")
    history = feature_history(profile, devices)
    early = history.early(1 - profile.training.holdout_share)
    samples = np.concatenate([d.samples for d in devices])
    stored = generic_bank(profile, samples[history.healthy & early].astype(np.float64), seed)
    timed = TimedHistory(
        tuple(d.device for d in devices), np.concatenate([d.end_us for d in devices]), history, early
    )
    return fit_history(profile, timed, stored, family, alarms_per_device_day, seed, progress)


def fit_history(
    profile: Profile,
    timed: TimedHistory,
    stored: BankFile,
    family: str,
    alarms_per_device_day: float,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> FirstModel:
    """The first model of rows of features; as ``fit_first_model``.

    Args:
        profile: Channels, features and decision rules.
        timed: The history.
        stored: Generic faults that it is chosen by.
        family: Name of the model family.
        alarms_per_device_day: Budget of false alarms.
        seed: Of the golden windows, and of a user's trainer.
        progress: Told each step.

    Raises:
        DatasetError: The history is too short, or too much of it is missing.
    """
    history, early = timed.history, timed.early
    progress(f"{len(early)} windows of {len(timed.devices)} device(s); {(~early).mean():.0%} are the test")
    bank, rule = parse_bank(stored.to_bytes()), alarm_rule(profile, alarms_per_device_day)
    with detector_kinds(profile, seed) as kinds:
        choice = choose(history.part(early), logged_features(profile), bank, rule, kinds, progress)
    judged = _judge(timed, choice, rule)
    outcome = _outcome(history, judged, choice, bank, rule)
    training = TrainingFacts(
        script=SCRIPT, seed=seed, devices=len(timed.devices), windows=int((history.healthy & early).sum())
    )
    bundle = learnt_bundle(
        profile,
        family,
        choice.detector,
        stretches(history.part(early), choice.detector),
        synthetic_windows(profile, seed),
        training,
        choice.kind.name,
        FIRST_MAJOR,
    )
    return FirstModel(bundle, choice, stored, judged, outcome)


def feature_history(profile: Profile, devices: Sequence[DeviceWindows]) -> FeatureHistory:
    """Features of a history as a device computes them; NaN where a channel has too few samples."""
    rows = [profile_features(profile, _usable(d.samples, profile), d.end_us) for d in devices]
    numbers = [np.full(len(d.samples), at, dtype=np.int64) for at, d in enumerate(devices)]
    return FeatureHistory(
        np.concatenate(rows),
        np.concatenate(numbers),
        np.concatenate([d.faulty for d in devices]),
        np.concatenate([d.excluded for d in devices]),
        np.concatenate([d.end_us for d in devices]),
        WindowTiming.of(profile.sampling),
    )


def alarm_rule(profile: Profile, alarms_per_device_day: float) -> AlarmRule:
    """The budget under the profile's mildest rule."""
    rules = profile.decision.score_rules
    return AlarmRule(
        alarms_per_device_day,
        profile.sampling.hop_s,
        rules[0].after_windows if rules else 1,
        profile.decision.refractory_windows,
    )


def _usable(samples: NDArray[np.floating], profile: Profile) -> Array:
    finite = np.isfinite(samples)
    given = np.where(finite, samples, np.nan).astype(np.float64)
    too_few = 1.0 - finite.mean(axis=1) > profile.sampling.max_missing
    given[np.broadcast_to(too_few[:, None, :], given.shape)] = np.nan
    return given


def _judge(timed: TimedHistory, choice: DetectorChoice, rule: AlarmRule) -> JudgedHistory:
    history = timed.history
    score = choice.detector.score(history.rows(weight_read(choice.detector)))
    high = np.nan_to_num(score) >= choice.enter
    alarm = np.zeros(len(score), dtype=bool)
    for number in range(len(timed.devices)):
        mine = history.device == number
        alarm[mine] = rule.starts(high[mine])
    return JudgedHistory(
        timed.devices,
        history.device,
        timed.end_us,
        score,
        alarm,
        ~timed.early,
        history.faulty,
        history.excluded,
        history.features,
    )


def _outcome(
    history: FeatureHistory, judged: JudgedHistory, choice: DetectorChoice, bank: FaultBank, rule: AlarmRule
) -> OutcomeOnTest:
    healthy, labelled = history.healthy & judged.test, history.labelled & judged.test
    recall = float((judged.score[labelled] >= choice.enter).mean()) if labelled.any() else None
    rows = history.rows(weight_read(choice.detector))[healthy]
    by_kind = bank_recall(choice.detector, rows, bank, choice.threshold.distance) if healthy.any() else {}
    return OutcomeOnTest(
        int(healthy.sum()),
        float(healthy.sum()) / rule.windows_per_day,
        int((judged.alarm & healthy).sum()),
        int(labelled.sum()),
        recall,
        by_kind,
    )


def stretches(history: FeatureHistory, model: object) -> list[list[Array]]:
    """Per device, healthy rows as a model reads them in stretches of equal length, for baselines.

    Args:
        history: Has the rows.
        model: Says whether it reads recent levels.
    """
    healthy, every = history.healthy, history.rows(weight_read(model))
    rows = [every[healthy & (history.device == n)] for n in np.unique(history.device[healthy])]
    length = min(STRETCH, *(len(r) for r in rows)) if len(rows) > 1 else min(STRETCH, len(rows[0]))
    return [[r[at : at + length] for at in range(0, len(r) - length + 1, length)] for r in rows]
