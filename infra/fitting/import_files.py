"""Checks a model that somebody else made, tries it on a history, and writes what a person needs of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.fitting.fit_files import BANK, BUNDLES
from infra.fitting.fitted_profile import fitted_text, in_family
from infra.fitting.history_windows import recorded_windows
from infra.replay import RequestedRecording
from model_service import imported_model
from schemas.absent_file import absent
from schemas.durable import DISK
from schemas.errors import BundleError
from schemas.profile import Profile


@dataclass(frozen=True, slots=True, eq=False)
class ImportedFile:
    """A checked file.

    Attributes:
        reads: ``features`` or ``window``.
        score_output: As the person named it; empty: the graph's only one.
        profile: In the family of its own name.
        text: The profile's TOML with family and threshold; empty: no file holds it, or there is no history.
        fit: What it does on the history; None: none was given.
    """

    data: bytes
    reads: str
    score_output: str
    profile: Profile
    text: str = ""
    fit: imported_model.ImportedFit | None = None


def import_file(
    file: Path,
    profile: Profile,
    text: str,
    recording: RequestedRecording | None,
    score_output: str,
    budget: float,
) -> ImportedFile:
    """The file, checked on made-up windows and, where there is one, tried on a history.

    Args:
        file: An ONNX file.
        profile: That it is for.
        text: The profile's TOML; empty: no file holds it.
        recording: A history of it; None: there is none.
        score_output: Name of the graph's output; empty: the only one.
        budget: False alarms a device and day.

    Raises:
        BundleError: It cannot be read, or a device could not run it; the message says what to do.
        DatasetError: The history is too short.
    """
    try:
        data = file.read_bytes()
    except FileNotFoundError as exc:
        raise BundleError(f"{file}: {absent(file)}") from exc
    except OSError as exc:
        raise BundleError(f"{file}: cannot be read: {exc.strerror}") from exc
    own = in_family(profile, profile.name, budget)
    try:
        graph = imported_model.check_import(data, own, score_output)
        if recording is None:
            return ImportedFile(data, graph.reads, score_output, own)
        windows = recorded_windows(recording, (), ())
        fit = imported_model.fit_import(own, windows.devices, graph, budget)
    except BundleError as exc:
        raise BundleError(f"{file}: {exc}") from exc
    if not text:
        return ImportedFile(data, graph.reads, score_output, own, "", fit)
    made, fitted = fitted_text(text, own.name, fit.enter, fit.leave, budget)
    return ImportedFile(data, graph.reads, score_output, fitted, made, fit)


def write_import(found: ImportedFile, folder: Path) -> dict[str, Any]:
    """Write bundle, fault bank and profile, if there was a history; returns the facts for a person."""
    facts: dict[str, Any] = {"profile": found.profile.name, "reads": found.reads}
    if (fit := found.fit) is None:
        return facts
    DISK.write_folder(folder / BUNDLES / fit.bundle.manifest.family, fit.bundle.files)
    DISK.write(folder / BANK, fit.bank.to_bytes())
    if found.text:
        DISK.write(folder / f"{found.profile.name}.toml", found.text.encode())
    test, healthy = fit.judged.test, ~(fit.judged.faulty | fit.judged.excluded)
    return {
        **facts,
        "version": fit.bundle.manifest.version,
        "enter": fit.enter,
        "leave": fit.leave,
        "budget_counted": fit.threshold.counted,
        "alarms": int(fit.judged.alarm.sum()),
        "false_alarms_on_test": int((fit.judged.alarm & test & healthy).sum()),
        "test_windows": int((test & healthy).sum()),
        "bundle": str(folder / BUNDLES / fit.bundle.manifest.family),
        "profile_file": str(folder / f"{found.profile.name}.toml") if found.text else None,
    }
