"""Fits a first model to files of measurements, and writes what a person needs of it into one folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from feature_store.lake import Lake
from feature_store.lake_registry import ProfileRegistry
from infra.fitting.fit_report import fit_facts, report_page
from infra.fitting.fitted_profile import fitted_text, in_family
from infra.fitting.history_spans import HistorySpan, parse_excluded, read_fault_spans
from infra.fitting.history_windows import recorded_windows
from infra.replay import RequestedRecording
from model_service import first_model
from schemas.durable import DISK
from schemas.errors import SourceError
from schemas.profile import Profile
from schemas.profile_file import builtin_profiles, find_profile
from schemas.section import NAME

BUNDLES, BANK, REPORT = "bundles", "fault_bank.json", "report.html"


@dataclass(frozen=True, slots=True)
class FitWishes:
    """What a person says about a fit.

    Attributes:
        family: Name of the model family; the profile's own name.
        labels: CSV of labelled faults; None: there are none.
        excluded: Spans to leave out, ``FROM..TO``.
        alarms_per_device_day: Budget of false alarms.
        zone: Of times that carry none.
        seed: Of the generic faults.
    """

    family: str
    labels: Path | None
    excluded: tuple[str, ...]
    alarms_per_device_day: float
    zone: str
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class FittedFiles:
    """A fit, and the profile that names it.

    Attributes:
        text: The profile's TOML; empty: no file holds it.
        unknown: Devices that a label names and the files do not have.
        from_lake: Its rows are in the lake already.
        faults: Spans that a person labelled.
    """

    fitted: first_model.FirstModel
    text: str
    profile: Profile
    unknown: tuple[str, ...]
    from_lake: bool = False
    faults: tuple[HistorySpan, ...] = ()


def fit_files(
    recording: RequestedRecording, text: str, wishes: FitWishes, progress: Callable[[str], None]
) -> FittedFiles:
    """The first model of a recording's profile.

    Args:
        recording: The history, read.
        text: The profile's TOML; empty: no file holds it.
        wishes: What a person says.
        progress: Told each step.

    Raises:
        SourceError: Labels or windows cannot be read.
        DatasetError: The history is too short.
        ValueError: A span is none.
    """
    zone = ZoneInfo(wishes.zone)
    faults = () if wishes.labels is None else read_fault_spans(wishes.labels, zone)
    windows = recorded_windows(recording, faults, parse_excluded(wishes.excluded, zone))
    if faults and not any(d.faulty.any() for d in windows.devices):
        raise SourceError(f"{wishes.labels}: none of its {len(faults)} spans lies in the history")
    fitted = first_model.fit_first_model(
        recording.profile,
        windows.devices,
        wishes.family,
        wishes.alarms_per_device_day,
        wishes.seed,
        progress,
    )
    choice, budget = fitted.choice, wishes.alarms_per_device_day
    if not text:
        own = in_family(recording.profile, wishes.family, budget)
        return FittedFiles(fitted, "", own, windows.unknown, faults=tuple(faults))
    made, profile = fitted_text(text, wishes.family, choice.enter, choice.leave, budget)
    return FittedFiles(fitted, made, profile, windows.unknown, faults=tuple(faults))


def profile_source(profile: str, lake_root: Path) -> tuple[Profile, str]:
    """A profile and its TOML: of a file, shipped, or known to the lake alone; then the text is empty.

    Raises:
        ProfileError: There is none of this name, or it is no valid profile.
    """
    shipped = builtin_profiles()
    if profile in shipped or not re.fullmatch(NAME, profile) or Path(profile).exists():
        return find_profile(profile), shipped.get(profile, Path(profile)).read_text(encoding="utf-8")
    known = ProfileRegistry(Lake.open(lake_root)).profiles() if lake_root.is_dir() else {}
    return (known[profile], "") if profile in known else (find_profile(profile), "")


def write_fit(found: FittedFiles, folder: Path, sources: Sequence[Path], budget: float) -> dict[str, Any]:
    """Write bundle, fault bank, profile and report; returns the report's facts and where the files are."""
    fitted, name = found.fitted, found.profile.name
    page = report_page(name, ", ".join(p.name for p in sources), fitted, budget)
    DISK.write_folder(folder / BUNDLES / fitted.bundle.manifest.family, fitted.bundle.files)
    DISK.write(folder / BANK, fitted.bank.to_bytes())
    DISK.write(folder / REPORT, page.encode())
    if found.text:
        DISK.write(folder / f"{name}.toml", found.text.encode())
    return {
        **fit_facts(fitted, budget),
        "report": str(folder / REPORT),
        "profile": str(folder / f"{name}.toml") if found.text else None,
        "bundle": str(folder / BUNDLES / fitted.bundle.manifest.family),
        "fault_bank": str(folder / BANK),
    }
