"""`robot_slow` on UR3 CobotOps: models from its first 60 %, protective stops and lost grips in the rest.

``python -m benchmarks.detection.cobot_events [FOLDER] --write docs/verticals/robot_slow.md``; FOLDER holds
``ur3_cobotops/``. Everything goes as the commands go: `model import` and `model fit` read the first part of
the file, and the whole file goes through source, graph and rules of a device.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.event_score import (
    BLOCK_S,
    MetEvents,
    alarms_of,
    best_always,
    block_counts,
    f1_interval,
    met,
    spans_of,
)
from benchmarks.figure_page import FigurePage, replace_figures
from edge_producer.decider import Decider
from edge_producer.inference import load_predictor
from edge_producer.sources.canonical_recording import CanonicalSource
from edge_producer.window_scoring import WindowScorer
from infra.fitting.fit_files import BUNDLES, FitWishes, fit_files, write_fit
from infra.fitting.history_windows import recorded_windows
from infra.fitting.import_files import import_file, write_import
from infra.reading.canonical import write_canonical
from infra.replay import ReplayRequest
from model_service.verticals.robot_slow.labelled_trees import LabelledTrees, fit_labelled_trees
from schemas.instants import to_us
from schemas.profile import Profile
from schemas.profile_file import builtin_profiles, load_profile

BEGIN = "<!-- figures: python -m benchmarks.detection.cobot_events -->"
RECORDINGS = Path(__file__).parents[3] / "shared" / "data"
PROFILE, SHARE, BUDGET = "robot_slow", 0.6, 1.0
KINDS = {"grip_lost": "grip_lost", "protective_stop": "Robot_ProtectiveStop"}
"""Kinds of events, and their columns."""
DEVICE = "cobot"
HEADS = ["event F1", "above always alarm", "found", "false", "missed", "delay, s"]
Array = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class CobotFile:
    """The recording: its lines, and what is labelled.

    Attributes:
        lines: As in the file, the header first.
        seconds: Since 1970, of each row, shape (n,).
        labels: By kind, shape (n,).
        first: Rows that may be learnt from.
    """

    lines: tuple[str, ...]
    seconds: Array
    labels: dict[str, Flags]
    first: int

    @property
    def either(self) -> Flags:
        """Rows of either kind."""
        return np.asarray(np.logical_or.reduce(list(self.labels.values())))


@dataclass(frozen=True, slots=True, eq=False)
class ActingRun:
    """What a device did, window by window: shape (n,).

    Attributes:
        acting: An action was in force.
        by_kind: Likewise by the rules on the kind's own output alone; by all rules where it has none.
    """

    name: str
    seconds: Array
    acting: Flags
    by_kind: dict[str, Flags]


def main() -> int:
    """Measure; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=RECORDINGS)
    parser.add_argument("--write", type=Path, help="page whose figures to replace")
    parser.add_argument("--keep", type=Path, help="where to put the model's file and what `import` wrote")
    given = parser.parse_args()
    paths = sorted((given.folder / "ur3_cobotops").glob("*.csv"))
    if not paths:
        sys.stderr.write(f"error: {given.folder}/ur3_cobotops holds no recording: name its folder\n")
        return 1
    file = read_cobot(paths[0])
    with TemporaryDirectory(prefix="edgeloop-cobot-") as name:
        folder = given.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        runs, trees = judged_runs(file, folder)
    text = _figures(file, runs, trees)
    sys.stdout.write(text)
    if given.write is not None:
        replace_figures(given.write, BEGIN, text)
    return 0


def read_cobot(path: Path) -> CobotFile:
    """The file, and its first 60 % of rows."""
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    rows = list(csv.DictReader(lines, delimiter=";"))
    at = [datetime.fromisoformat(row["Timestamp"].strip('"')).timestamp() for row in rows]
    labels = {k: np.array([row[c].strip() == "True" for row in rows]) for k, c in KINDS.items()}
    return CobotFile(tuple(lines), np.array(at), labels, int(SHARE * len(rows)))


def judged_runs(file: CobotFile, folder: Path) -> tuple[list[ActingRun], LabelledTrees]:
    """What each model does on the whole file."""
    whole, early, labels = folder / f"{DEVICE}.csv", folder / "first.csv", folder / "labels.csv"
    whole.write_text("\n".join(file.lines) + "\n", encoding="utf-8")
    early.write_text("\n".join(file.lines[: file.first + 1]) + "\n", encoding="utf-8")
    labels.write_text(_label_lines(file), encoding="utf-8")
    text = builtin_profiles()[PROFILE].read_text(encoding="utf-8")
    plain, cool = folder / "plain.toml", folder / "cool.toml"
    plain.write_text(without_outputs(text), encoding="utf-8")
    cool.write_text(without_temperatures(without_outputs(text)), encoding="utf-8")
    shipped = load_profile(builtin_profiles()[PROFILE])
    trees = _trees(file, early)
    (folder / "trees.onnx").write_bytes(trees.data)
    history = ReplayRequest((early,), PROFILE).read()
    imported = import_file(folder / "trees.onnx", shipped, text, history, "", BUDGET)
    facts = write_import(imported, folder / "import")
    runs = [_acted("imported", whole, load_profile(Path(facts["profile_file"])), folder / "import" / BUNDLES)]
    for name, path in (("`model fit`", plain), ("`model fit`, no temperatures", cool)):
        out = folder / f"fit-{path.stem}"
        recording = ReplayRequest((early,), str(path)).read()
        wishes = FitWishes(PROFILE, labels, (), BUDGET, "UTC")
        found = fit_files(recording, path.read_text(encoding="utf-8"), wishes, lambda _: None)
        write_fit(found, out, (early,), BUDGET)
        chosen = f"{name} ({found.fitted.choice.kind.name})"
        runs.append(_acted(chosen, whole, load_profile(out / f"{PROFILE}.toml"), out / BUNDLES))
    runs.append(_acted("generic score `robust`", whole, shipped, None))
    runs.append(_acted("`robust`, no temperatures", whole, load_profile(cool), None))
    return runs, trees


def without_outputs(text: str) -> str:
    """The profile's text without the outputs that only labels can teach, and the rules that read them."""
    text = re.sub(r"(?m)^outputs = .*\n", "", text)
    return re.sub(r'\[\[decision\.rules\]\]\naction = "\w+"\noutput = [^\[]*', "", text)


def without_temperatures(text: str) -> str:
    """The profile's text without features of temperatures."""
    return re.sub(r'\[\[features\.compute\]\]\nchannel = "temperature_\w+"\nkinds = .*\n\n?', "", text)


def _label_lines(file: CobotFile) -> str:
    """Labelled spans of the first part, as `--labels` reads them."""
    lines = ["span_start,span_end,label"]
    for kind, flags in file.labels.items():
        for first, last in spans_of(file.seconds[: file.first], flags[: file.first]).tolist():
            at = [datetime.fromtimestamp(s, UTC).isoformat() for s in (first, last)]
            lines.append(",".join([*at, kind]))
    return "\n".join(lines) + "\n"


def _trees(file: CobotFile, early: Path) -> LabelledTrees:
    """The labelled windows' own file: a window is of the kind that its newest sample is labelled as."""
    recording = ReplayRequest((early,), PROFILE).read()
    [windows] = recorded_windows(recording, (), ()).devices
    row = np.searchsorted(file.seconds[: file.first], windows.end_us / 1e6 + 0.5, side="right") - 1
    labels = {kind: flags[row] for kind, flags in file.labels.items()}
    names = recording.profile.channel_names
    judged = [n for n in names if not n.startswith("temperature")]
    moving = [n for n in names if n.startswith("speed")]
    seconds = windows.end_us / 1e6

    def by_events(kind: str) -> Callable[[Flags], float]:
        spans = spans_of(file.seconds[: file.first], file.labels[kind][: file.first])
        return lambda said: met(spans, alarms_of(seconds, said)).f1

    quality = {kind: by_events(kind) for kind in labels}
    return fit_labelled_trees(windows.samples, labels, names, judged, moving, quality)


def _acted(name: str, path: Path, profile: Profile, bundles: Path | None) -> ActingRun:
    sys.stderr.write(f"{name}\n")
    predictor = load_predictor(profile) if bundles is None else load_predictor(profile, bundles)
    request = ReplayRequest((path,), profile.name, DEVICE, known=profile)
    recording = request.read()
    scorer, decider, found = WindowScorer(DEVICE, profile), Decider(profile.decision), []
    alone = {kind: _decider_of(kind, profile, generic=bundles is None) for kind in KINDS}
    with TemporaryDirectory(prefix="edgeloop-cobot-") as made:
        write_canonical(recording.read, profile, recording.ids, Path(made))
        for given in CanonicalSource(Path(made), profile, [DEVICE]).windows():
            window = scorer.begin(given)
            features, score = scorer.score(predictor, window)
            further = scorer.further(features)
            acts = [
                each.decide(window.end, score, out_of_range=scorer.out_of_range, further=further).action
                != profile.decision.idle
                for each in (decider, *alone.values())
            ]
            found.append((to_us(window.end) / 1e6, *acts))
    seconds, acting, *kinds = map(np.array, zip(*found, strict=True))
    return ActingRun(name, seconds, acting, dict(zip(alone, kinds, strict=True)))


def _decider_of(kind: str, profile: Profile, *, generic: bool) -> Decider:
    """Decides by the rules on a kind's own output; by all where no rule reads it, or no model gives it."""
    own = () if generic else tuple(rule for rule in profile.decision.rules if rule.output == kind)
    return Decider(profile.decision.model_copy(update={"rules": own}) if own else profile.decision)


def _figures(file: CobotFile, runs: Sequence[ActingRun], trees: LabelledTrees) -> str:
    page = FigurePage()
    begin, end = float(file.seconds[file.first]), float(file.seconds[-1])
    rest = slice(file.first, None)
    spans = spans_of(file.seconds[rest], file.either[rest])
    early = spans_of(file.seconds[: file.first], file.either[: file.first])
    kinds = {k: spans_of(file.seconds[rest], f[rest]) for k, f in file.labels.items()}
    period, always = best_always(file.seconds[rest], spans)
    plain = met(spans, alarms_of(file.seconds[rest], np.ones(len(file.seconds) - file.first, dtype=bool)))
    results = [(run.name, _judged(run, spans, begin)) for run in runs]
    base = block_counts(always, begin, end)
    page.say(
        f"Judged: {len(file.seconds) - file.first} rows, {end - begin:.0f} s, {len(spans)} events "
        f"({len(kinds['protective_stop'])} of protective stops, {len(kinds['grip_lost'])} of lost grips); "
        f"learnt from: {file.first} rows with {len(early)} events. "
        f"Blocks of {BLOCK_S:.0f} s are drawn for the intervals."
    )
    rows = [_row(name, found, block_counts(found, begin, end), base) for name, found in results]
    rows.append(_row(f"always alarm, every {period:.0f} s (its best)", always, base, None))
    rows.append(_row("always alarm, every 10 s", plain, block_counts(plain, begin, end), None))
    page.table(["model", *HEADS], rows)
    best = dict(results)["imported"]
    robust = max((f for n, f in results if "`robust`" in n), key=lambda f: f.f1)
    low, high = f1_interval(block_counts(best, begin, end), block_counts(robust, begin, end))
    run = next(r for r in runs if r.name == "imported")
    by_kind = {k: np.isfinite(_judged(run, s, begin).delay).mean() for k, s in kinds.items()}
    bends = ", ".join(f"{k} {v:g}" for k, v in trees.thresholds.items())
    page.say(
        f"*imported* lies above the better of the generic scores by {best.f1 - robust.f1:.3f} "
        f"[{low:.3f}, {high:.3f}]. It finds {by_kind['protective_stop']:.0%} of the protective stops and "
        f"{by_kind['grip_lost']:.0%} of the lost grips. Thresholds of its trees' probabilities: {bends}."
    )
    _say_kinds(page, file, runs, kinds)
    return "\n".join(page.lines).strip() + "\n"


def _say_kinds(page: FigurePage, file: CobotFile, runs: Sequence[ActingRun], kinds: dict[str, Array]) -> None:
    """Each kind by itself: its own output against its own events."""
    page.say(
        "Each kind by itself: alarms of its own output (of the score, where a model has none) against "
        "its own events. An alarm that meets an event of the other kind alone is left out, also where a "
        "model alarms always."
    )
    rest, rows = file.seconds[file.first :], []
    begin, end = float(rest[0]), float(rest[-1])
    for kind, spans in kinds.items():
        [others] = [s for k, s in kinds.items() if k != kind]
        period, always = best_always(rest, spans, others)
        base = block_counts(always, begin, end)
        judged = [(run.name, _judged(run, spans, begin, kind, others)) for run in runs]
        rows += [[kind, *_row(n, found, block_counts(found, begin, end), base)] for n, found in judged]
        rows.append([kind, *_row(f"always alarm, every {period:.0f} s (its best)", always, base, None)])
    page.table(["kind", "model", *HEADS], rows)
    for kind, spans in kinds.items():
        [others] = [s for k, s in kinds.items() if k != kind]
        best, *_ = [_judged(run, spans, begin, kind, others) for run in runs if run.name == "imported"]
        generic = [_judged(run, spans, begin, kind, others) for run in runs if "robust`" in run.name]
        robust = max(generic, key=lambda f: f.f1)
        low, high = f1_interval(block_counts(best, begin, end), block_counts(robust, begin, end))
        page.say(
            f"{kind}: above the better generic score by {best.f1 - robust.f1:.3f} [{low:.3f}, {high:.3f}]."
        )


def _judged(
    run: ActingRun, spans: Array, begin: float, kind: str | None = None, others: Array | None = None
) -> MetEvents:
    rest, acting = run.seconds >= begin, run.acting if kind is None else run.by_kind[kind]
    return met(spans, alarms_of(run.seconds[rest], acting[rest]), others)


def _row(name: str, found: MetEvents, counts: Array, base: Array | None) -> list[str]:
    low, high = f1_interval(counts)
    above = "-"
    if base is not None:
        least, most = f1_interval(counts, base)
        above = f"[{least:+.3f}, {most:+.3f}]"
    delays = found.delay[np.isfinite(found.delay)]
    delay = "-"
    if len(delays):
        middle, late = np.quantile(delays, [0.5, 0.9])
        delay = f"median {middle:.0f}, 90 % {late:.0f}"
    return [name, f"{found.f1:.3f} [{low:.3f}, {high:.3f}]", above, *map(str, found.counts), delay]


if __name__ == "__main__":
    sys.exit(main())
