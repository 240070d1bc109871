"""``edgeloop-edge run | update | relearn | consent | status | check``: wires settings, models and runner."""

from __future__ import annotations

import gc
import logging
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

from edge_producer.bundle import load_bundle
from edge_producer.command_line import EdgeCommand, parse_arguments
from edge_producer.consent_command import change_consent
from edge_producer.device_identity import DeviceKeys
from edge_producer.edge_check import print_check
from edge_producer.edge_status import print_edge_status
from edge_producer.fail_safe import FailSafe
from edge_producer.inference import OnnxPredictor
from edge_producer.joining import usual_settings
from edge_producer.process_parts import ProcessParts, make_fail_safe, make_state_dir, read_keys
from edge_producer.relearn_requests import RelearnRequests
from edge_producer.resident_memory import release_code
from edge_producer.runner import Runner
from edge_producer.settings import EdgeSettings, load_settings
from edge_producer.sources import open_source
from edge_producer.updates.profile_record import starting_profiles
from schemas.errors import PipelineError, SpoolInUseError
from schemas.escaping import escaped_block, escaped_line
from schemas.folder_access import guard_folder
from schemas.log_lines import log_to_stderr
from schemas.profile import Profile
from schemas.profile_file import find_profile

if TYPE_CHECKING:
    from edge_producer.updates.updater import Updater

log = logging.getLogger(__name__)

EXIT_DONE, EXIT_FAILED, EXIT_MISUSE, EXIT_BLOCKED = 0, 1, 2, 3
"""``EXIT_BLOCKED``: the spool holds messages that the broker does not take as they are."""
UNNEEDED = {"profile": "none", "devices": ["none"]}
"""Settings that only sensing needs."""
UNNEEDED_BY: dict[str, dict[str, Any]] = {"status": UNNEEDED, "consent": {"profile": "none"}}
SWITCH_INTERVAL_S = 0.0001
"""How long the writer's thread may keep the interpreter while a window is due (CPython: 5 ms)."""
SETTLED_S = 30.0
"""Time after which a process has done once what it does."""


def main(argv: list[str] | None = None) -> int:
    """Run until the source ends or a signal comes, or update once; what could not be sent stays spooled."""
    try:
        command = parse_arguments(sys.argv[1:] if argv is None else argv)
        unneeded = UNNEEDED_BY.get(command.name, {})
        usual = usual_settings(command.join, command.given)
        settings = load_settings(command.given, {**unneeded, **usual})
    except ValueError as exc:
        sys.stderr.write(escaped_block(f"edge_producer: {exc}\n"))
        return EXIT_MISUSE
    except SystemExit as exc:  # argparse has said why, or helped
        return EXIT_DONE if exc.code in (0, None) else EXIT_MISUSE
    if command.name in ("check", "status"):
        shows_status = command.name == "status"
        return print_edge_status(settings, as_json=command.as_json) if shows_status else print_check(settings)
    log_to_stderr()
    logging.getLogger("tuf").setLevel(logging.WARNING)
    logging.raiseExceptions = (
        False  # a log that cannot be written, on a full disk, is no reason for more of it
    )
    stop = threading.Event()
    _stop_on_signals(stop)
    try:
        _guard(settings)
        return _carried_out(command, settings, stop)
    except PipelineError as exc:
        log.error("%s: %s", type(exc).__name__, exc)  # noqa: TRY400  (the message says what to do)
        return EXIT_FAILED


def _carried_out(command: EdgeCommand, settings: EdgeSettings, stop: threading.Event) -> int:
    if command.name == "relearn":
        return _relearn(command.devices, settings)
    if command.name == "consent":
        return change_consent(settings, command.action, command.devices, as_json=command.as_json)
    return _run(settings, stop) if command.name == "run" else _update(settings)


def _guard(settings: EdgeSettings) -> None:
    """Close the state folder to others; a disk that takes no change must not keep devices from sensing."""
    try:
        guard_folder(settings.state_dir, settings.data_group)
    except OSError as exc:
        log.warning("%s cannot be closed to other users: %s", settings.state_dir, exc)


def _run(settings: EdgeSettings, stop: threading.Event) -> int:
    given = find_profile(settings.profile)
    profile = starting_profiles(given, settings.updates_dir, settings.devices).process.profile
    make_state_dir(settings)
    fail_safe = make_fail_safe(settings, profile)
    try:
        # From here on every way out commands the fail-safe, a start that fails too.
        fail_safe.start()
        return _sense_and_send(settings, profile, fail_safe, stop)
    except SpoolInUseError:
        fail_safe.abandon()
        raise
    finally:
        fail_safe.end()


def _sense_and_send(
    settings: EdgeSettings, profile: Profile, fail_safe: FailSafe, stop: threading.Event
) -> int:
    keys = read_keys(settings)
    updater = _updater(settings, profile, keys) if settings.has_models else None
    predictor = OnnxPredictor(load_bundle(profile), profile) if updater is None else None
    source = open_source(settings, profile, settings.devices)
    parts = ProcessParts(fail_safe=fail_safe, keys=keys)
    runner = Runner(settings, profile, source, predictor, updater=updater, parts=parts)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.collect()
    gc.freeze()
    release_code()
    settled = threading.Timer(SETTLED_S, release_code)  # by then it has met the broker, and runs as it will
    settled.daemon = True
    settled.start()
    try:
        result = runner.run(stop)
    finally:
        settled.cancel()
        gc.unfreeze()
    if result.blocked.messages:
        n, rows, _, reason = result.blocked
        log.error("%d messages with %d rows are blocked, and kept for a later start: %s", n, rows, reason)
        return EXIT_BLOCKED
    if result.unkept:
        return EXIT_FAILED
    return EXIT_DONE if result.drained or stop.is_set() else EXIT_FAILED


def _updater(settings: EdgeSettings, profile: Profile, keys: DeviceKeys) -> Updater:
    from edge_producer.updates.updater import Updater  # noqa: PLC0415  (heavy: grpc and tuf)

    return Updater(settings, profile, keys=keys, patient=True)


def _update(settings: EdgeSettings) -> int:
    from edge_producer.updates.update_once import update_once  # noqa: PLC0415  (heavy: grpc and tuf)

    done = update_once(settings, find_profile(settings.profile), _print_line)
    return EXIT_DONE if done else EXIT_FAILED


def _relearn(device_ids: Sequence[str], settings: EdgeSettings) -> int:
    requests = RelearnRequests(settings.state_dir, settings.devices)
    try:
        for device_id in device_ids:
            requests.ask(device_id)
    except (ValueError, OSError) as exc:
        sys.stderr.write(escaped_block(f"edge_producer: {exc}\n"))
        return EXIT_FAILED
    return EXIT_DONE


def _print_line(line: str) -> None:
    sys.stdout.write(escaped_line(line) + "\n")
    sys.stdout.flush()


def _stop_on_signals(stop: threading.Event) -> None:
    def handle(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, handle)


if __name__ == "__main__":
    sys.exit(main())
