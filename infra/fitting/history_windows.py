"""Windows of a recording as a device would have cut them, with what a person says about them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_producer.sources.canonical_recording import CanonicalSource
from infra.fitting.history_spans import HistorySpan
from infra.reading.canonical import write_canonical
from infra.replay import RequestedRecording
from model_service import first_model
from schemas.instants import to_us
from schemas.profile import Profile


@dataclass(frozen=True, slots=True, eq=False)
class RecordedWindows:
    """The windows, and how many there were.

    Attributes:
        unknown: Devices that a span names and the recording does not have.
    """

    devices: tuple[first_model.DeviceWindows, ...]
    windows: int
    unknown: tuple[str, ...]


def recorded_windows(
    recording: RequestedRecording, faults: Sequence[HistorySpan], excluded: Sequence[HistorySpan]
) -> RecordedWindows:
    """All windows of a recording.

    Raises:
        SourceError: The recording cannot be cut into windows.
    """
    profile, ids = recording.profile, sorted(recording.ids.values())
    length_us = _length_us(profile)
    found = []
    with tempfile.TemporaryDirectory(prefix="edgeloop-fit-") as folder:
        write_canonical(recording.read, profile, recording.ids, Path(folder))
        for device in ids:
            windows = list(CanonicalSource(Path(folder), profile, [device]).windows())
            if not windows:
                continue
            end_us = np.array([to_us(w.end) for w in windows], dtype=np.int64)
            found.append(
                first_model.DeviceWindows(
                    device,
                    end_us,
                    np.stack([w.samples for w in windows]),
                    _within(faults, device, end_us, length_us),
                    _within(excluded, device, end_us, length_us),
                )
            )
    named = {span.device for span in (*faults, *excluded)} - {""}
    return RecordedWindows(tuple(found), sum(len(d.end_us) for d in found), tuple(sorted(named - set(ids))))


def windows_by_label(
    recorded: RecordedWindows, profile: Profile, faults: Sequence[HistorySpan]
) -> dict[str, list[np.ndarray]]:
    """By label, for each device which of its windows the label marks."""
    length_us = _length_us(profile)
    return {
        label: [
            _within([s for s in faults if s.label == label], d.device, d.end_us, length_us)
            for d in recorded.devices
        ]
        for label in sorted({span.label for span in faults})
    }


def _length_us(profile: Profile) -> float:
    """From a window's first sample to its last."""
    return (profile.sampling.window_samples - 1) / profile.sampling.rate_hz * 1e6


def _within(spans: Sequence[HistorySpan], device: str, end_us: np.ndarray, length_us: float) -> np.ndarray:
    inside = np.zeros(len(end_us), dtype=bool)
    for span in spans:
        inside |= span.overlaps(device, end_us, length_us)
    return inside
