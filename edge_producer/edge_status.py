"""What a device says of itself: `edgeloop-edge status`, from its own files, without a network."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from edge_producer.settings import EdgeSettings
from edge_producer.status_file import read_status
from schemas.escaping import escaped_line

NOT_USED = (
    "malformed", "unmapped", "unreadable_time", "unparsable", "blank", "absurd", "duplicate", "late", "ahead",
    "out_of_order", "overrun", "retained", "unrouted", "other_device", "unknown_channel", "surplus", "stuck",
    "missing", "gaps", "skipped",
)  # fmt: skip
"""What a source counts that a person may have to look at, in the order of its way."""
OF_ACTUATOR = ("received", "refused", "timed_out", "failed", "garbled", "unexpected", "superseded")
"""What is counted of an actuator, in the order of the status."""
OF_FUNCTION = ("answered", "failed", "late", "overruled", "states_lost")
"""Likewise of a decision function."""
EXIT_DONE, EXIT_FAILED = 0, 1


def print_edge_status(settings: EdgeSettings, *, as_json: bool) -> int:
    """Print it; the exit code says whether there is one."""
    status = read_status(settings.status_path)
    if status is None:
        sys.stderr.write(f"no status in {settings.state_dir}: nothing has run there\n")
        return EXIT_FAILED
    if as_json:
        sys.stdout.write(json.dumps(status) + "\n")
        return EXIT_DONE
    for line in status_lines(status, datetime.now(UTC)):
        sys.stdout.write(escaped_line(line) + "\n")
    return EXIT_DONE


def status_lines(status: Mapping[str, Any], now: datetime) -> Iterator[str]:
    """A few lines for a person.

    Args:
        status: As the process writes it.
        now: To say how old it is.
    """
    age_s = (now - datetime.fromisoformat(status["updated"])).total_seconds()
    profile = _profile(status)
    yield f"{status['name']}: {status['phase']}, profile {profile}, as of {age_s:.0f} s ago"
    for device, decision in status["decisions"].items():
        yield f"  {device}: decides {decision or 'nothing yet'}"
    yield from _source_lines(status)
    books, queue = status["books"], status["queue"]
    sent = f"{books['acked']} received by the cloud, {queue['unsent']} messages wait"
    yield f"rows: {books['sensed']} sensed, {sent}"
    yield from _broker_lines(status, now)
    for device, models in status.get("models", {}).items():
        said = " ".join(str(models[k]) for k in ("state", "result", "attack", "detail") if models[k])
        yield f"model of {device}: {models['version']} {said}"
    yield from _profile_lines(status)
    yield from _config_lines(status)
    yield from excerpt_lines(status)
    yield from acting_lines(status)
    if status["waits_because"]:
        yield f"  waits: {status['waits_because']}"


def excerpt_lines(status: Mapping[str, Any]) -> Iterator[str]:
    """Consent, what is held and what became of permits; no line where a device has no excerpts."""
    for device, models in status.get("models", {}).items():
        told = models.get("excerpts")
        if not told:
            continue
        ended = ", ".join(f"{n} {name}" for name, n in told["permits"].items() if n) or "none ended yet"
        yield (
            f"excerpts of {device}: consent {'on' if told['consent'] else 'off'} "
            f"(changed {told['changes']} times), {told['held_s']:g} s held in memory, permits: {ended}"
        )
        for permit, until in sorted(told["waiting"].items()):
            yield f"  permit {permit} waits until {until}"
        if told["last"] and told["last"].get("refusal"):
            yield f"  permit {told['last']['permit']} refused: {told['last']['detail']}"
        for problem in filter(None, (told["problem"], told["error"])):
            yield f"  {problem}"
    counters = status.get("counters", {})
    sent, gone = (counters.get(f"excerpt_messages_{what}", 0) for what in ("sent", "withdrawn"))
    if sent or gone:
        yield f"messages with raw samples: {sent} received by the cloud, {gone} withdrawn"


def _config_lines(status: Mapping[str, Any]) -> Iterator[str]:
    for device, models in status.get("models", {}).items():
        for family, told in models.get("configs", {}).items():
            said = " ".join(str(told[k]) for k in ("state", "result", "attack", "detail") if told[k])
            yield f"{family} of {device}: {told['version']} {said}"


def _profile(status: Mapping[str, Any]) -> str:
    """Name of the profile, and its version where it was pushed."""
    number = status.get("profile_version", {}).get("number")  # a status of 0.2.0 has none
    return f"{status['profile']}@{number}" if number else str(status["profile"])


def _profile_lines(status: Mapping[str, Any]) -> Iterator[str]:
    for device, models in status.get("models", {}).items():
        told = models.get("profile")
        if told and told["outcome"]:
            said = " ".join(str(told[k]) for k in ("outcome", "attack", "detail") if told[k])
            yield f"profile of {device}: {status['profile']}@{told['wanted']} {said}"


def acting_lines(status: Mapping[str, Any]) -> Iterator[str]:
    """How real-time class, actuator and decision functions of a process do, a line each; without any none."""
    realtime = status.get("realtime")
    if realtime:
        refused = f", not permitted: {realtime['error']}" if realtime["error"] else ""
        yield f"real-time class: priority {realtime['priority']}{refused}"
    actuator = status.get("actuator")
    if actuator:
        told = ", ".join(f"{actuator[n]} {n.replace('_', ' ')}" for n in OF_ACTUATOR if actuator.get(n))
        yield f"actuator {actuator['address']}: {actuator['state']}, {told or 'told nothing yet'}"
        if actuator["receipt_ms"]["n"]:
            took = actuator["receipt_ms"]
            yield f"  from sample to receipt: {took['p50']:.2f} ms, 1 % above {took['p99']:.2f} ms"
        if actuator["error"]:
            yield f"  {actuator['error']}"
    for device, function in status.get("decision_functions", {}).items():
        said = ", ".join(f"{function[n]} {n.replace('_', ' ')}" for n in OF_FUNCTION if function.get(n))
        plan = f", parameters {function['parameters']}" if function["parameters"] else ""
        yield f"decision function of {device}: {function['name']}, {said or 'not asked yet'}{plan}"
        for number, times in sorted(function["clipped"].items()):
            yield f"  clipped to the profile's bounds: {number}, {times} times"
        counts = sorted(function.get("counts", {}).items())
        if counts:
            yield f"  counted: {', '.join(f'{times} {name}' for name, times in counts)}"
        if function["problem"]:
            yield f"  {function['problem']}"


def _broker_lines(status: Mapping[str, Any], now: datetime) -> Iterator[str]:
    broker = status.get("broker", {})  # a status of 0.2.0 has none
    where = f" {broker['servers']}" if broker else ""
    reached = status["online"] and not status.get("stalled") and not broker.get("problem")
    yield f"broker{where}: {'reached' if reached else 'not reached: rows wait in the spool'}"
    if broker.get("problem"):
        yield f"  {broker['problem']}"
    if broker.get("certificate_until"):
        left_h = (datetime.fromisoformat(broker["certificate_until"]) - now).total_seconds() / 3600
        yield f"  certificate: {f'valid for {left_h:.1f} h' if left_h > 0 else f'ended {-left_h:.1f} h ago'}"
    blocked = status.get("blocked")
    if blocked and blocked["messages"]:
        yield f"  blocked: {blocked['messages']} messages, {blocked['rows']} rows: {blocked['reason']}"


def _source_lines(status: Mapping[str, Any]) -> Iterator[str]:
    state, counts = status.get("source_state"), status["source"]
    if state is None:
        yield f"source: {counts.get('samples', 0)} samples"
    else:
        yield (
            f"source {state['address']}: {state['phase']}, {counts.get('samples', 0)} samples, "
            f"silent for {state['silent_s']:.1f} s, opened again {state['restarts']} times"
        )
        if state["error"]:
            yield f"  failed: {state['error']}"
    odd = [f"{counts[name]} {name.replace('_', ' ')}" for name in NOT_USED if counts.get(name)]
    if odd:
        yield f"  counted: {', '.join(odd)}"
