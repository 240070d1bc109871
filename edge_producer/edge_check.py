"""`edgeloop-edge check`: what a device needs, looked at once without sensing, joining or sending anything."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from edge_producer.actions import load_actions
from edge_producer.certificate_files import CertificateWatch
from edge_producer.device_identity import load_signer
from edge_producer.join_files import load_join
from edge_producer.process_parts import require_function
from edge_producer.sending.broker_check import check_broker
from edge_producer.settings import EdgeSettings
from schemas.durable import DISK
from schemas.envelope import MessageSigner
from schemas.errors import PipelineError
from schemas.escaping import escaped_line
from schemas.profile_file import find_profile

EXIT_DONE, EXIT_FAILED = 0, 1
CONNECT_S = 5.0


class Finding(NamedTuple):
    """One thing that was looked at; ``problem`` is empty where it is as it must be."""

    what: str
    found: str
    problem: str = ""


def print_check(settings: EdgeSettings) -> int:
    """Print a line for each finding; the exit code says whether all is well."""
    good = True
    for finding in findings(settings):
        good = good and not finding.problem
        mark = "FAIL" if finding.problem else "ok"
        sys.stdout.write(escaped_line(f"{mark:4} {finding.what}: {finding.problem or finding.found}") + "\n")
        sys.stdout.flush()
    return EXIT_DONE if good else EXIT_FAILED


def findings(settings: EdgeSettings) -> Iterator[Finding]:
    """In the order in which a start needs them."""
    yield _state_folder(settings.state_dir)
    yield _profile(settings)
    yield from _function(settings)
    yield from _actions(settings)
    for device_id in settings.producers:
        yield from _service(settings, device_id)
    yield _broker(settings)


def _state_folder(folder: Path) -> Finding:
    nearest = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    writable = nearest.is_dir() and os.access(nearest, os.W_OK)
    return Finding("state folder", str(folder), "" if writable else f"{nearest} cannot be written")


def _profile(settings: EdgeSettings) -> Finding:
    try:
        return Finding("profile", find_profile(settings.profile).name)
    except PipelineError as exc:
        return Finding("profile", "", str(exc))


def _function(settings: EdgeSettings) -> Iterator[Finding]:
    """The decision function of the profile, if it names one."""
    try:
        profile = find_profile(settings.profile)
    except PipelineError:
        return  # the profile's own finding says it
    try:
        require_function(settings.devices[0], profile)
    except PipelineError as exc:
        yield Finding("decision function", "", str(exc))
    else:
        if profile.decision.function is not None:
            yield Finding("decision function", profile.decision.function)


def _actions(settings: EdgeSettings) -> Iterator[Finding]:
    """The file of actions, and whether its actuator is there."""
    if settings.actions_file is None:
        return
    try:
        file = load_actions(settings.actions_file)
        yield Finding("file of actions", f"{settings.actions_file}, {len(file.actions)} commands")
        if file.actuator is not None:
            actuator = file.actuator.make(file.hold_s)
            yield Finding("actuator", actuator.address, _unserved(file.actuator.socket))
    except PipelineError as exc:
        yield Finding("file of actions", "", str(exc))


def _unserved(path: str | None) -> str:
    """Why nobody serves a Unix socket; empty: somebody does, or there is no socket."""
    if path is None:
        return ""
    try:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(CONNECT_S)
            link.connect(path)
    except OSError as exc:
        return f"{path}: {exc}: start the actuator"
    return ""


def _service(settings: EdgeSettings, device_id: str) -> Iterator[Finding]:
    if not settings.has_models:
        yield Finding(f"model service of {device_id}", "none: the device runs what the release ships")
        return
    folder = settings.updates_dir / device_id
    try:
        join = load_join(settings.join_dir or folder, folder, device_id, DISK)
    except PipelineError as exc:
        yield Finding(f"join bundle of {device_id}", "", str(exc))
        return
    if join is None:
        yield Finding(f"join bundle of {device_id}", "", "there is none: `edgeloop fleet invite` makes one")
        return
    for what, address in (("enrolment", join.enrollment), ("delivery", join.delivery)):
        yield Finding(f"{what} of {device_id}", address, _unreachable(address))


def _unreachable(address: str) -> str:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_S):
            return ""
    except (OSError, ValueError) as exc:
        return f"nothing answers at {address}: {exc}"


def _broker(settings: EdgeSettings) -> Finding:
    servers = settings.bootstrap_servers
    if not settings.broker_tls:
        return Finding("broker", f"{servers}, without TLS", check_broker(servers, None))
    certificate = CertificateWatch(settings, _signers(settings), lambda: 0.0).current()
    if certificate is None:
        first = servers.partition(",")[0]
        found = f"{first}, not tried with TLS: the device gets its certificate at its first `run`"
        return Finding("broker", found, _unreachable(first))
    left_h = (certificate.until - datetime.now(UTC)).total_seconds() / 3600
    found = f"{servers}, with the certificate of {certificate.holder}, valid for {left_h:.1f} h"
    return Finding("broker", found, check_broker(servers, certificate))


def _signers(settings: EdgeSettings) -> dict[str, MessageSigner]:
    signers = {}
    for device_id in settings.producers:
        try:
            signers[device_id] = load_signer(settings.keys_dir, device_id, may_create=False)
        except PipelineError:
            continue  # without its key it has no certificate either
    return signers
