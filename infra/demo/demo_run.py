"""Runs a demo: stack, fleet, injected changes, network cut, loop, drain, scenes, report."""

from __future__ import annotations

import contextlib
import time
from contextlib import ExitStack
from dataclasses import replace

from rich.console import Console

from infra.demo.conclude import conclude, conclude_loop
from infra.demo.demo_report import DemoReport, print_report
from infra.demo.loop_report import LoopReport
from infra.demo.loop_view import LoopReader, merge_device_steps
from infra.demo.plan import SOUTH
from infra.demo.scenes import play_scenes
from infra.demo.screen import LEGEND, DemoScreen
from infra.demo.stage import DemoRequest, DemoStage, begin_afresh, mark_if_new, prepare
from infra.demo.story import story_of, story_seconds
from infra.kafka.kafka_admin import KafkaAdmin
from infra.line_watch import LineWatcher
from infra.settings import StackSettings
from infra.stack.running import line_only, running_stack
from infra.stack.stack_file import TroubleWatch, stack_troubles
from model_service import CandidateState
from schemas.errors import StackError
from schemas.profile_file import find_profile

__all__ = ["DemoRequest", "run_demo"]

POLL_EVERY_S = 1.0
DRAIN_S = 90.0


def run_demo(settings: StackSettings, request: DemoRequest, console: Console) -> DemoReport:
    """Run a demo to its end.

    Returns:
        What happened, and whether all is well.

    Raises:
        StackError: The stack cannot start, or an edge process ended early.
        ProfileError: No such profile, or one without a simulator.
    """
    profile = find_profile(request.profile)
    if profile.simulate is None:
        raise StackError(
            f"profile '{profile.name}' has no [simulate]: the demo needs one; try --profile machine"
        )
    if not request.seconds:
        request = replace(request, seconds=story_seconds(story_of(profile.simulate.generator)))
    if not request.loop:
        mark_if_new(settings.state_dir)
        settings = line_only(settings)
    before_start = begin_afresh if request.loop else None
    with running_stack(settings, "demo", console.print, before_start) as stack, ExitStack() as cleanup:
        stage = prepare(request, profile, stack, DemoScreen(console, request.seconds))
        reader = cleanup.enter_context(contextlib.closing(LoopReader.of(stage.models, stage.since)))
        _start(stage, cleanup)
        watcher = LineWatcher(
            stage.lake, KafkaAdmin(stack.bootstrap_servers), stack.namespace, stage.edges, stage.since
        )
        with stage.screen.open():
            _play(stage, watcher, reader if request.loop else None)
        _drain(stage, watcher, console)
        report = conclude(stage, watcher, _close_loop(stage, reader, console) if request.loop else None)
    print_report(console, report, stage.plan.told())
    return report


def _start(stage: DemoStage, cleanup: ExitStack) -> None:
    for edge in stage.edges:
        edge.start()
        cleanup.callback(edge.stop)
        if stage.stack.owned is not None:
            stage.stack.owned.adopt(edge.child)
    if stage.proxy is not None:
        cleanup.callback(stage.proxy.stop)


def _play(stage: DemoStage, watcher: LineWatcher, reader: LoopReader | None) -> None:
    """Show the fleet and the loop until every edge process has sensed its last window."""
    stage.screen.add_line(stage.plan.told())
    if not stage.screen.is_live:
        stage.screen.add_line(LEGEND)
    troubles = TroubleWatch(stage.stack.settings.state_dir)
    while stage.elapsed_s < stage.plan.seconds:
        started = time.monotonic()
        offline = _cut_or_restore(stage)
        stage.check_edges()
        for step in merge_device_steps(reader.new_steps()) if reader is not None else ():
            since_start = step.at - stage.plan.scenario.start
            stage.screen.add_step(since_start.total_seconds(), step.text())
        for line in troubles.news():
            stage.screen.add_line(f"problem: {line}")
        view = watcher.poll()
        if stage.elapsed_s >= 0:
            stage.screen.show(stage.elapsed_s, view, offline)
        time.sleep(max(0.0, POLL_EVERY_S - (time.monotonic() - started)))
    if stage.proxy is not None and stage.proxy.is_cut:
        stage.proxy.restore()


def _cut_or_restore(stage: DemoStage) -> str | None:
    """Cut or restore the south's network when it is due; returns the edge process that is offline."""
    if stage.proxy is None:
        return None
    due = stage.plan.cut_from_s <= stage.elapsed_s < stage.plan.cut_to_s
    if due and not stage.proxy.is_cut:
        stage.proxy.cut()
    elif not due and stage.proxy.is_cut:
        stage.proxy.restore()
    return next((e.spec.name for e in stage.edges if e.spec.site == SOUTH), None) if due else None


def _drain(stage: DemoStage, watcher: LineWatcher, console: Console) -> None:
    """Wait until the edge processes have ended and every message is in a cut."""
    console.print("draining: waiting until spools are empty and every message is in the lake")
    deadline = time.monotonic() + DRAIN_S
    while time.monotonic() < deadline:
        stage.check_edges()
        watcher.poll()
        ended = all(e.child.exit_code == 0 for e in stage.edges)
        if ended and watcher.lag() == 0:
            return
        time.sleep(0.2)
    console.print(f"[red]not drained after {DRAIN_S:.0f} s[/]")
    for line in stack_troubles(stage.stack.settings.state_dir):
        console.print(f"problem: {line}", markup=False)


def _close_loop(stage: DemoStage, reader: LoopReader, console: Console) -> LoopReport:
    """Play the scenes on the model that the loop made; returns the loop's part of the report."""
    new = next((m.version for m in reader.models() if m.status is CandidateState.PUBLISHED), None)
    if new is None:
        console.print("[red]no model was published: the scenes need one and are left out[/]")
    scenes = [] if new is None else play_scenes(stage, new, stage.screen.add_line)
    return conclude_loop(stage, reader, scenes)
