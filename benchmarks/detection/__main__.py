"""`make eval`: scores `model fit` on recordings, labelled or made up; writes docs/detection.md's figures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.detection.fitted_run import DetectionRun, run_recording
from benchmarks.detection.labelled_recordings import LabelledRecording, cobot, nab_recordings, pump_test_bed
from benchmarks.detection.made_up_recordings import SINGLE_KINDS, kind_of, pump_runs, single_channels
from benchmarks.detection.nab_score import NabFile, best_threshold, nab_score
from benchmarks.detection.row_score import RowScore, always, row_score
from benchmarks.figure_page import FigurePage, replace_figures

SEED = 7
"""Of made-up recordings."""
BEGIN = "<!-- figures: make eval -->"
RECORDINGS = Path(__file__).parents[3] / "shared" / "data"
Flags = np.ndarray


def main() -> int:
    """Measure; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=RECORDINGS)
    parser.add_argument("--write", type=Path, help="page whose figures to replace")
    given = parser.parse_args()
    page = FigurePage()
    _nab(page, given.folder / "nab")
    _rows(page, "The pump test bed", list(pump_test_bed(given.folder / "skab")))
    _rows(page, "Made-up runs in the form of the pump test bed", list(pump_runs(SEED)))
    _rows(page, "The same with twice the wandering and larger faults", list(pump_runs(SEED, 2.0, 1.5)))
    _singles(page)
    _rows(page, "The cobot", list(cobot(given.folder / "ur3_cobotops")))
    text = "\n".join(page.lines).strip() + "\n"
    sys.stdout.write(text)
    if given.write is not None:
        replace_figures(given.write, BEGIN, text)
    return 0


def _nab(page: FigurePage, folder: Path) -> None:
    files = list(nab_recordings(folder))
    page.lines += ["", "### NAB, standard profile"]
    if not files:
        page.say("The recordings are not here: not measured.")
        return
    fitted = [_run(f.recording, fit=True) for f in files]
    generic = [_run(f.recording, fit=False) for f in files]
    labels = [f.labels for f in files]
    rows = [
        [
            f.recording.name,
            run.chosen,
            _nab_figure([f.labels], [run]),
            _nab_figure([f.labels], [plain]),
            str(len(f.labels.windows)),
            str(_hits(f.labels, run)),
            str(_false(f.labels, run)),
        ]
        for f, run, plain in zip(files, fitted, generic, strict=True)
    ]
    rows.append(
        [
            "**all**",
            "",
            f"**{_nab_figure(labels, fitted)}**",
            f"**{_nab_figure(labels, generic)}**",
            str(sum(len(f.windows) for f in labels)),
            str(sum(map(_hits, labels, fitted))),
            str(sum(map(_false, labels, fitted))),
        ]
    )
    page.table(["file", "chosen", "score", "generic score", "windows", "found", "false alarms"], rows)
    one, at = best_threshold([(f, _peaks(r)) for f, r in zip(labels, fitted, strict=True)])
    steady = nab_score([(f, np.ones(f.rows, dtype=bool)) for f in labels])
    page.say(
        f"Never alarming scores 0.0 by definition, always alarming {steady:.1f}. With one threshold over all "
        f"files, chosen afterwards as NAB's own tables do, the scores reach {one:.1f} (at {at:.2f} of each "
        "file's own threshold). The column *score* uses the threshold that `fit` set before it saw the rest."
    )


def _singles(page: FigurePage) -> None:
    page.lines += ["", "### Made-up single channels in the form of NAB, by how they wander"]
    rows, every = [], list(single_channels(SEED))
    runs = [[_run(f.recording, fit=fit) for f in every] for fit in (True, False)]
    for kind in (*SINGLE_KINDS, ""):
        at = [n for n, f in enumerate(every) if kind in ("", kind_of(f.recording.name))]
        labels = [every[n].labels for n in at]
        fitted, generic = ([found[n] for n in at] for found in runs)
        figures = _nab_figure(labels, fitted), _nab_figure(labels, generic)
        chosen = ", ".join(sorted({run.chosen for run in fitted}))
        rows.append([kind or "**all**", chosen if kind else "", *figures])
    page.table(["wandering", "chosen", "score", "generic score"], rows)


def _rows(page: FigurePage, title: str, recordings: list[LabelledRecording]) -> None:
    page.lines += ["", f"### {title}, row by row"]
    if not recordings:
        page.say("The recordings are not here: not measured.")
        return
    rows = []
    for name, fit in (("`model fit`", True), ("generic score", False)):
        runs = [(r, _run(r, fit=fit)) for r in recordings]
        found = [(r.faulty[r.history :], run.acting[r.history :]) for r, run in runs]
        chosen = sorted({run.chosen for _, run in runs})
        rows.append([name, ", ".join(chosen), *_row_figures(row_score(found))])
    rows.append(["always alarm", "", *_row_figures(always(found))])
    rows.append(["never alarm", "", "0.000", "0.0 %", "100.0 %"])
    page.table(["detector", "chosen", "F1", "false alarms", "missed"], rows)


def _run(recording: LabelledRecording, *, fit: bool) -> DetectionRun:
    sys.stderr.write(f"{recording.name}: {'fit' if fit else 'generic'}\n")
    return run_recording(recording.channels, recording.us, recording.values, recording.history, fit=fit)


def _row_figures(score: RowScore) -> Iterator[str]:
    yield f"{score.f1:.3f}"
    yield f"{100 * score.false_alarms:.1f} %"
    yield f"{100 * score.missed:.1f} %"


def _nab_figure(files: Sequence[NabFile], runs: Sequence[DetectionRun]) -> str:
    return f"{nab_score([(f, r.alarm) for f, r in zip(files, runs, strict=True)]):.1f}"


def _peaks(run: DetectionRun) -> Flags:
    """The score, in units of the threshold, where it is the highest of the last dozen; else 0."""
    high = np.zeros(len(run.score))
    for row in range(len(high)):
        newest = run.score[max(0, row - 12) : row + 1]
        high[row] = newest[-1] / run.enter if newest[-1] == newest.max() else 0.0
    return high


def _hits(file: NabFile, run: DetectionRun) -> int:
    return sum(bool(run.alarm[max(a, file.probation) : b + 1].any()) for a, b in file.windows)


def _false(file: NabFile, run: DetectionRun) -> int:
    outside = np.arange(file.rows) >= file.probation
    for first, last in file.windows:
        outside[first : last + 1] = False
    return int((run.alarm & outside).sum())


if __name__ == "__main__":
    sys.exit(main())
