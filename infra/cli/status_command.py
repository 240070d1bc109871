"""`edgeloop status`."""

from __future__ import annotations

from collections import Counter
from typing import Any

import typer

from infra.cli.app import session
from infra.cli.console import AsJson, show_json, show_table, show_text
from infra.cli.table_view import moment
from infra.printing import cell, count, size


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(status)


def status(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Show every process, topic, lag, table and the newest cut."""
    from infra.stack.stack_status import collect_status

    found = collect_status(session(ctx).settings())
    if as_json:
        show_json(found)
    else:
        _show(found)


def unfit_samples(processes: list[dict[str, Any]]) -> list[str]:
    """What edge processes say of samples and scores that cannot be, a line each."""
    lines = []
    for process in processes:
        for device, shares in (process.get("absurd_shares") or {}).items():
            lost = ", ".join(f"{share:.0%} of {channel}" for channel, share in shares.items())
            lines.append(cell(f"{device}: {lost} outside min..max: mend the range or the sensor"))
        counters = process.get("counters") or {}
        if outside := counters.get("scores_outside", 0):
            lines.append(cell(f"{process['name']}: {count(outside, 'score')} outside [0, 1] not used"))
    return lines


def acting_troubles(processes: list[dict[str, Any]]) -> list[str]:
    """What is wrong with actuators and decision functions, and numbers that were clipped, a line each."""
    lines = []
    for process in processes:
        actuator = process.get("actuator") or {}
        if actuator.get("error"):
            lines.append(cell(f"{process['name']}: actuator {actuator['address']}: {actuator['error']}"))
        for device, function in (process.get("decision_functions") or {}).items():
            if function["problem"]:
                lines.append(cell(f"{device}: decision function {function['name']}: {function['problem']}"))
            for number, times in sorted(function["clipped"].items()):
                lines.append(
                    cell(f"{device}: {number} clipped {count(times, 'time')} to the profile's bounds")
                )
    return lines


def _show_listener(found: dict[str, Any]) -> None:
    """Where devices on other machines reach the broker, and what it denied them of late."""
    if found.get("listen"):
        rate = found.get("device_bytes_per_s")
        each = f"   each may write {size(rate)} a second" if rate else ""
        show_text(f"devices on other machines   {found['listen']}{each}")
    for tried, times in list(found.get("denied", {}).items())[:5]:
        show_text(f"the broker denied   {tried}   {times} times of late")


def _show(found: dict[str, Any]) -> None:
    from edge_producer.edge_status import excerpt_lines
    from infra.job_report import job_news

    show_text(f"stack   {found['state']}   broker {found['broker'] or '-'}   state {found['state_dir']}")
    _show_listener(found)
    if found["processes"]:
        rows = [
            [p["name"], p["state"], p["pid"], _memory(p["memory_mb"]), count(p["restarts"]), p["log"]]
            for p in found["processes"]
        ]
        show_table("\nprocesses", ["name", "state…", "pid>", "memory>", "restarts>", "log…"], rows)
    if found["devices"]:
        show_table(
            "\nedge processes",
            ["name", "phase", "pending>", "updated"],
            [
                [
                    d["name"],
                    d.get("phase"),
                    count(d.get("books", {}).get("pending")),
                    moment(d.get("updated")),
                ]
                for d in found["devices"]
            ],
        )
    said = [line for device in found["devices"] for line in excerpt_lines(device)]
    for line in [*unfit_samples(found["devices"]), *acting_troubles(found["devices"]), *map(cell, said)]:
        show_text(line)
    if found["refusals"] is not None and (refused := _refused(found["refusals"])):
        show_text(f"\nrefused by the model service since {moment(found['refusals']['since'])}: {refused}")
    if found["topics"]:
        behind: Counter[str] = Counter()
        for lag in found["lag"]:
            behind[lag["topic"]] += lag["lag"]
        tasked = {lag["topic"] for lag in found["lag"]}
        rows = [
            [
                t["name"],
                count(t["partitions"]),
                count(t["end_offsets"]),
                count(behind[t["name"]]) if t["name"] in tasked else "",
            ]
            for t in found["topics"]
        ]
        show_table("\ntopics", ["name", "partitions>", "messages>", "lag>"], rows)
    if found["tables"]:
        rows = [[t["name"], count(t["rows"]), t["version"], count(t["files"])] for t in found["tables"]]
        show_table("\ntables", ["name", "rows>", "version>", "files>"], rows)
    _show_refused(found["refused"])
    if found["jobs"]:
        rows = [[j["job"], j["state"], count(j["behind"]), j["error"]] for j in found["jobs"]]
        show_table("\njobs of your own", ["name", "state", "commits behind>", "error…"], rows)
    for line in job_news(found["jobs"]):
        show_text(line)
    _show_under_way(found)
    if found["cut"]:
        show_text(f"\ncut     {found['cut']['id']}   created {moment(found['cut']['created'])}")
    for problem in found["problems"]:
        show_text(f"problem {cell(problem)}")


def _show_under_way(found: dict[str, Any]) -> None:
    if found["rollouts"]:
        rows = [[r["rollout_id"], r["group"], r["version"], _rollout(r)] for r in found["rollouts"]]
        show_table("\nrollouts", ["rollout", "group", "version", "state…"], rows)
    if found["runs"]:
        rows = [[r["run_id"], r["profile"], r["state"], r["detail"]] for r in found["runs"]]
        show_table("\ntraining runs", ["run", "profile", "state", "what it waits for…"], rows)


def _rollout(rollout: dict[str, Any]) -> str:
    if rollout["queued_behind"]:
        return f"queued behind {rollout['queued_behind']}"
    return f"{rollout['state']}, phase {rollout['phase']} of {rollout['last_phase']}"


def _refused(refusals: dict[str, Any]) -> str:
    """Refused connections with the address that lost most, and refused calls by method; empty: none."""
    parts = []
    if connections := sum(refusals["connections"].values()):
        [(worst, lost)] = Counter(refusals["addresses"]).most_common(1) or [("", 0)]
        most = f", {count(lost)} of them from {worst}" if worst else ""
        parts.append(f"{count(connections, 'connection')}{most}")
    for kind, number in Counter(refusals["calls"]).most_common(3):
        parts.append(f"{count(number, 'call')} of {kind}")
    return "; ".join(parts)


def _show_refused(refused: list[dict[str, Any]]) -> None:
    if refused:
        rows = [
            [
                r["device_id"] or "nobody registered",
                r["topic"],
                r["error"],
                count(r["messages"]),
                count(r["single_rows"]),
                moment(r["last_at"]),
            ]
            for r in refused
        ]
        show_table("\nrefused", ["signed by", "topic", "error", "messages>", "rows>", "last"], rows)


def _memory(mebibytes: int | None) -> str:
    return "" if mebibytes is None else size(mebibytes * 1024**2)
