"""Whether a process that ended without order may have hit a resource limit. Reads counters of the kernel."""

from __future__ import annotations

import resource
from pathlib import Path

from pydantic import BaseModel, ConfigDict, NonNegativeInt

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
_BOUNDED = (resource.RLIMIT_AS, resource.RLIMIT_DATA, resource.RLIMIT_CPU)
"""Limits of a process whose breach leaves no trace that the next process could read."""


class LimitCounts(BaseModel):
    """What the kernel has counted so far, and whether the process runs under limits of its own.

    Attributes:
        boot: Id of the kernel's boot; the counters begin anew with it. Empty: not known.
        machine: Processes of the machine that were killed for want of memory.
        group: Those of the process's control group.
        bounded: The process may take a bounded amount of address space, data or processor time only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    boot: str = ""
    machine: NonNegativeInt = 0
    group: NonNegativeInt = 0
    bounded: bool = False

    def may_have_hit(self, later: LimitCounts) -> bool:
        """Whether a process that began at these counts may have ended by a limit, as a later one sees it.

        After another boot the machine went down: that was no limit. Otherwise a kill for want of memory
        anywhere on the machine counts, and so does any end under a limit of the process's own: which of them
        ended it, nobody recorded.
        """
        if self.boot != later.boot:
            return False
        return self.bounded or later.machine > self.machine or later.group > self.group


def limit_counts(proc: Path = PROC, cgroups: Path = CGROUPS) -> LimitCounts:
    """The counts now; what cannot be read counts as 0."""
    return LimitCounts(
        boot=_text(proc / "sys" / "kernel" / "random" / "boot_id").strip()[:64],
        machine=_count(proc / "vmstat", "oom_kill"),
        group=_count(_own_group(proc, cgroups) / "memory.events", "oom_kill"),
        bounded=any(resource.getrlimit(kind)[0] != resource.RLIM_INFINITY for kind in _BOUNDED),
    )


def _own_group(proc: Path, cgroups: Path) -> Path:
    """Folder of the process's control group (version 2)."""
    lines = _text(proc / "self" / "cgroup").splitlines()
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    return cgroups / own


def _count(path: Path, name: str) -> int:
    pairs = (line.split() for line in _text(path).splitlines())
    return next((int(p[1]) for p in pairs if len(p) == 2 and p[0] == name and p[1].isdecimal()), 0)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""
