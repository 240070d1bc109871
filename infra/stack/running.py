"""The stack that a command uses: the one that is up, or one of its own for as long as it runs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from infra.settings import StackSettings
from infra.stack.stack import Stack
from infra.stack.stack_file import BrokerFront, StackFile, is_held, read_stack, stack_troubles
from schemas.errors import StackError

_WAIT_S = 120.0
_POLL_S = 0.1


@dataclass(frozen=True)
class RunningStack:
    """A stack that is ready for clients.

    Attributes:
        settings: The settings in force.
        bootstrap_servers: Broker for clients.
        namespace: Prefix of topics and groups.
        site: The broker's listener for a site whose link can be cut; None for somebody else's cluster.
        owned: The stack if this process started it, else None.
    """

    settings: StackSettings
    bootstrap_servers: str
    namespace: str
    site: BrokerFront | None
    owned: Stack | None

    @property
    def lake_root(self) -> Path:
        """Folder of the lake."""
        return self.settings.lake_root


@contextlib.contextmanager
def running_stack(
    settings: StackSettings,
    owner: str = "command",
    progress: Callable[[str], None] = lambda _: None,
    before_start: Callable[[Path], None] | None = None,
) -> Iterator[RunningStack]:
    """The folder's stack: the one that is up, or one that starts now and stops at the end.

    Args:
        settings: Names the folder.
        owner: Name of the command, for status.
        progress: Receives progress lines.
        before_start: Called with the folder before this process's own stack starts. If given, a stack that is
            already up is refused instead of used.

    Raises:
        StackError: It cannot start.
    """
    if before_start is not None and is_held(settings.state_dir):
        raise StackError(
            f"a stack is up in {settings.state_dir}: `edgeloop down` first, or name another folder "
            "(EDGELOOP_STATE_DIR)"
        )
    if is_held(settings.state_dir):
        found = await_ready(settings.state_dir)
        progress(f"using the stack that is up: broker {found.bootstrap_servers}")
        yield RunningStack(settings, found.bootstrap_servers or "", found.namespace, found.site, None)
        return
    with Stack(settings, owner, progress, before_start) as stack:
        yield RunningStack(settings, stack.bootstrap_servers, settings.namespace, stack.site, stack)


@contextlib.contextmanager
def found_stack(
    settings: StackSettings, progress: Callable[[str], None] = lambda _: None
) -> Iterator[RunningStack | None]:
    """For a look-up: the folder's stack if one is up, or the cluster that the settings name; else None.

    It starts nothing.

    Raises:
        StackError: The stack that is up does not become ready.
    """
    if is_held(settings.state_dir):
        with running_stack(settings, progress=progress) as stack:
            yield stack
    elif settings.broker is not None:
        yield RunningStack(settings, settings.broker, settings.namespace, None, None)
    else:
        yield None


def log_only(settings: StackSettings) -> StackSettings:
    """Settings for a command that needs the log: a stack that it starts has no workers and no models."""
    return settings.model_copy(update={"workers": 0, "models": False})


def line_only(settings: StackSettings) -> StackSettings:
    """Settings for a command that needs log, workers and lake: a stack that it starts has no models."""
    return settings.model_copy(update={"models": False})


def await_ready(state_dir: Path, timeout_s: float = _WAIT_S) -> StackFile:
    """The stack that another process holds, once it is ready.

    Raises:
        StackError: It ended, failed, or took longer than ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    while is_held(state_dir):
        found = read_stack(state_dir)
        if found is not None and found.owner_lives and found.state == "ready":
            return found
        if time.monotonic() > deadline:
            troubles = "; ".join(stack_troubles(state_dir)) or "`edgeloop status`"
            raise StackError(f"the stack in {state_dir} is not ready after {timeout_s:.0f} s: {troubles}")
        time.sleep(_POLL_S)
    raise StackError(f"the stack in {state_dir} ended while we waited for it: start it again")
