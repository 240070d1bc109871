"""The model service's processes within the local stack: what is made once for them, and how each starts."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from feature_store.version_store import VersionStore
from infra.process.child import ChildProcess
from model_service import (
    PROCESSES,
    SETTINGS_PREFIX,
    ModelSettings,
    authority,
    ceremony,
    profile_signing,
)
from schemas.cohorts import EVERYBODY, SaltedShare
from schemas.errors import DamagedFileError, PipelineError, StackError
from schemas.profile import Profile
from schemas.profile_file import builtin_profiles, load_profile

CANARY_POOL = SaltedShare(salt="canary", share=0.3)
"""Devices of a group that the local stack's policy lets canary channels bind."""
GROUP, PROBES = "default", "probes"
"""Groups of the local stack's policy: the fleet, and the devices on which the demo tries attacks."""
SERVING = "model-serve"
"""Name of the process that devices and people call."""
STOP_S = 10.0
_READY_S = 60.0
_POLL_S = 0.05


def prepare(
    settings: ModelSettings, progress: Callable[[str], None], shipped: Mapping[str, Path] | None = None
) -> None:
    """Make keys, repository and certificates where they are absent, and print where the offline keys lie.

    Args:
        settings: Settings of the stack.
        progress: Called with lines for people.
        shipped: Profiles to sign when the repository is founded; None: those of this release.

    Raises:
        StackError: The folder cannot be written.
        DamagedFileError: A file that cannot be made again is damaged or lost.
    """
    shipped = builtin_profiles() if shipped is None else shipped
    try:
        settings.root.mkdir(parents=True, exist_ok=True)
        authority.init_pki(settings)
        if not ceremony.is_initialised(settings):
            profiles = [load_profile(path) for path in shipped.values()]
            families = sorted({f for p in profiles for f in (p.model.name, *(c.family for c in p.configs))})
            progress(ceremony.init(settings, families, {GROUP: CANARY_POOL, PROBES: EVERYBODY}, progress))
            _sign_shipped(settings, shipped, progress)
        _name_newer(settings, shipped, progress)
    except OSError as exc:
        raise StackError(f"cannot write the model service's folder {settings.root}: {exc}") from exc


def _sign_shipped(
    settings: ModelSettings, shipped: Mapping[str, Path], progress: Callable[[str], None]
) -> None:
    """Part of the founding ceremony: the shipped profiles become version 1 of their names."""
    for path in shipped.values():
        pushed = profile_signing.sign_profile(settings, load_profile(path), (GROUP, PROBES), "policy")
        progress(f"trust: signed {pushed.version}")


def _name_newer(
    settings: ModelSettings, shipped: Mapping[str, Path], progress: Callable[[str], None]
) -> None:
    """Say which shipped profiles are newer than what is signed; only a person pushes one."""
    store = VersionStore(settings.lake_root)
    for name, path in shipped.items():
        try:
            newest, waits = store.newest(name), not _was_signed(store, load_profile(path))
        except PipelineError as exc:
            progress(f"the versions of {name} cannot be read: {exc}")
            continue
        if newest is not None and waits:
            progress(
                f"this release ships another {name} than {newest}: `edgeloop profile diff {name}` shows what "
                f"it changes, `edgeloop profile push {name}` makes it the next version"
            )


def _was_signed(store: VersionStore, shipped: Profile) -> bool:
    """Whether the content was ever a version: then what followed was a person's choice."""
    digest = hashlib.sha256(shipped.canonical_form()).hexdigest()
    found = (store.signed(name) for name in store.history(shipped.name))
    return any(signed is not None and signed.statement.sha256 == digest for signed in found)


def spawners(settings: ModelSettings, logs_dir: Path) -> dict[str, Callable[[], ChildProcess]]:
    """Functions that start each process, by the name that status shows."""
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1", **as_environment(settings)}

    def spawner(name: str) -> Callable[[], ChildProcess]:
        command = [sys.executable, "-m", "model_service", name]
        log_path = logs_dir / f"model-{name}.log"
        return lambda: ChildProcess(f"model {name}", command, log_path, environment, grace_s=STOP_S)

    return {f"model-{name}": spawner(name) for name in PROCESSES}


def as_environment(settings: ModelSettings) -> dict[str, str]:
    """``MODEL_*`` variables that give a process these settings."""
    values = settings.model_dump(mode="json", exclude_none=True)
    return {
        SETTINGS_PREFIX + name.upper(): value if isinstance(value, str) else json.dumps(value)
        for name, value in values.items()
    }


def await_serving(settings: ModelSettings, child: ChildProcess) -> None:
    """Return once the public process listens.

    Raises:
        StackError: It ended, or did not listen in time.
        DamagedFileError: It ended because a file of its own is damaged.
    """
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        if (
            listening_pid(settings) == child.pid
        ):  # the child guard becomes the command, so the pid is the same
            return
        if child.exit_code is not None:
            tail = " | ".join(child.log_tail(3))
            if DamagedFileError.__name__ in tail:
                raise DamagedFileError(tail.rpartition(f"{DamagedFileError.__name__}: ")[2])
            raise StackError(f"the model service ended with {child.exit_code}: {tail}")
        time.sleep(_POLL_S)
    raise StackError(f"the model service did not listen within {_READY_S:.0f} s: see {child.log_path}")


def listening_pid(settings: ModelSettings) -> int | None:
    """Process id in the address file; None where there is none."""
    try:
        return int(json.loads(settings.address_file.read_text())["pid"])
    except (OSError, ValueError, KeyError):
        return None
