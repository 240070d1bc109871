"""`edgeloop-edge consent on|off|show`: the switch of whoever the samples are about; works without a network.

`off` returns once nothing can leave any more: the running process has deleted what it held and what was
unsent, or there is no process and this command has.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime

from edge_producer.excerpts.consent import Consent, ConsentFile
from edge_producer.sending.excerpt_lane import WITHDRAWN_META, noted
from edge_producer.settings import EdgeSettings
from edge_producer.spool.spool_lock import SpoolLock
from edge_producer.status_file import read_status
from schemas.errors import SpoolError, SpoolInUseError
from schemas.escaping import escaped_line
from schemas.topics import Lane

WAIT_S, LOOK_S = 15.0, 0.2
"""How long `off` waits for the running process, and time between two looks at what that says."""
EXIT_DONE, EXIT_FAILED = 0, 1


def change_consent(
    settings: EdgeSettings,
    action: str,
    device_ids: Sequence[str],
    *,
    as_json: bool = False,
    pause: Callable[[float], None] = time.sleep,
) -> int:
    """Switch, or show, consent of devices; all of the process where none is named. Returns the exit code."""
    unknown = sorted(set(device_ids) - set(settings.devices))
    if unknown:
        _say(f"no device {unknown[0]!r} here; there are: {', '.join(sorted(settings.devices))}", error=True)
        return EXIT_FAILED
    named = list(dict.fromkeys(device_ids)) or list(settings.devices)
    files = {name: ConsentFile(settings.state_dir, name) for name in named}
    if action != "show":
        try:
            for file in files.values():
                file.change(datetime.now(UTC), given=action == "on")
        except OSError as exc:
            _say(f"the switch cannot be written, and what held before holds: {exc}", error=True)
            return EXIT_FAILED
    found = {name: file.read() for name, file in files.items()}
    done = action != "off" or _nothing_leaves(settings, found, pause)
    _show(found, as_json=as_json)
    if not done:
        _say(
            "the process has not confirmed yet; it sends nothing from its next look on: ask again with `show`"
        )
    return EXIT_DONE if done else EXIT_FAILED


def _show(found: dict[str, Consent], *, as_json: bool) -> None:
    if as_json:
        told = {
            n: {"given": c.given, "changes": c.changes, "history": list(c.history)} for n, c in found.items()
        }
        sys.stdout.write(json.dumps(told) + "\n")
        return
    for name, consent in found.items():
        last = f", the last time at {consent.history[-1]['at']}" if consent.history else ""
        _say(f"{name}: consent {'on' if consent.given else 'off'}, changed {consent.changes} times{last}")
        if consent.problem:
            _say(f"  {consent.problem}")


def _nothing_leaves(
    settings: EdgeSettings, found: dict[str, Consent], pause: Callable[[float], None]
) -> bool:
    """Wait until what was unsent is deleted, by the running process or here."""
    waited = 0.0
    while waited <= WAIT_S:
        if _deleted_here(settings, found) or _confirmed(settings, found):
            return True
        pause(LOOK_S)
        waited += LOOK_S
    return False


def _confirmed(settings: EdgeSettings, found: dict[str, Consent]) -> bool:
    """Whether the running process says so; one that says nothing of excerpts has none."""
    models = (read_status(settings.status_path) or {}).get("models", {})
    said = {name: models.get(name, {}).get("excerpts") for name in found}
    return all(
        told is None or (told["settled"] and told["changes"] == found[name].changes)
        for name, told in said.items()
    )


def _deleted_here(settings: EdgeSettings, found: dict[str, Consent]) -> bool:
    """Delete unsent excerpts where no process has the spool; False: one has, and does it itself."""
    if not settings.spool_path.exists():
        return True
    try:
        lock = SpoolLock.take(settings.spool_path)
    except SpoolInUseError:
        return False
    except SpoolError as exc:
        _say(str(exc), error=True)
        return False
    try:
        _delete(settings, set(found))
    except sqlite3.Error as exc:
        _say(f"{settings.spool_path}: {exc}; the next start deletes it before anything leaves", error=True)
    finally:
        lock.release()
    return True


def _delete(settings: EdgeSettings, devices: set[str]) -> None:
    uri = f"{settings.spool_path.absolute().as_uri()}?mode=rw"
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
        connection.execute("PRAGMA secure_delete = ON")
        query = "SELECT id, value, device, msg_no FROM messages WHERE lane = ?"
        rows = connection.execute(query, (Lane.EXCERPT.value,)).fetchall()
        gone = [row for row in rows if json.loads(row[1]).get("device_id") in devices]
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("DELETE FROM messages WHERE id = ?", [(row[0],) for row in gone])
        if gone:
            connection.execute(
                "INSERT INTO counters VALUES ('excerpt_messages_withdrawn', ?)"
                " ON CONFLICT DO UPDATE SET value = value + excluded.value",
                (len(gone),),
            )
            numbers: dict[int, list[int]] = {}
            for _, _, producer, number in gone:
                numbers.setdefault(producer, []).extend([number] if number >= 0 else [])
            kept = connection.execute("SELECT value FROM meta WHERE key = ?", (WITHDRAWN_META,)).fetchone()
            untold = noted(json.loads(kept[0]) if kept else {}, numbers)
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (WITHDRAWN_META, untold))
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    if gone:
        _say(f"{len(gone)} unsent messages with raw samples are deleted")


def _say(line: str, *, error: bool = False) -> None:
    (sys.stderr if error else sys.stdout).write(escaped_line(line) + "\n")
