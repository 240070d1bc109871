"""Engine and guard that kill themselves with -9 around every transaction, until a rollout has ended.

python -m tests.simulators.dying_rollout ROOT WHO

Each life of the process named by WHO (engine, guard or both) ends either just before its first transaction,
when its changes to files are made but not recorded, or just after, when they are recorded and nothing more
is done.
Prints one line of JSON: the number of deaths, and the seqs that were in force, in order.
"""

import json
import os
import signal
import sys
import time
import traceback
from contextlib import contextmanager, suppress
from pathlib import Path

from model_service.registry.database import Registry
from schemas.channel_documents import Release
from schemas.errors import RetryableError
from tests.simulators.rollout_deployment import FACTORY, GROUP, RolloutDeployment

ENDED = ("paused", "completed", "completed_partial", "rolled_back", "rolled_back_partial")


class Dying(Registry):
    """Dies at its first transaction."""

    when = "never"

    @contextmanager
    def transaction(self):
        if self.when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        with super().transaction() as connection:
            yield connection
        if self.when == "after":
            os.kill(os.getpid(), signal.SIGKILL)


def live(deployment: RolloutDeployment, who: str, when: str) -> bool:
    """One life of a process: a tick or two; returns whether it was killed."""
    pid = os.fork()
    if pid:
        _, status = os.waitpid(pid, 0)
        return os.WIFSIGNALED(status)
    try:
        registry = Dying(deployment.settings.database_url)
        registry.when = when
        deployment.registry = registry
        process = deployment.engine() if who == "engine" else deployment.guard()
        with suppress(RetryableError):
            process.tick()
    except BaseException:  # noqa: BLE001  (a forked child must not fall into its parent's code)
        traceback.print_exc()
    os._exit(0)


def main(root: Path, who: str) -> None:
    deployment = RolloutDeployment(root)
    names = [f"{GROUP}-{i:03d}" for i in range(20)]
    deployment.installed = {name: Release(version=FACTORY) for name in names}
    deaths, seqs = 0, []
    lives = {"engine": 0, "guard": 0}
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for part in lives:
            when = ("before", "after")[lives[part] % 2] if who in (part, "both") else "never"
            died = live(deployment, part, when)
            lives[part] += died
            deaths += died
        for channel in deployment.repo.channels(GROUP).values():
            seqs += [channel.seq] if channel.seq not in seqs else []
        deployment.obey(names)
        record = deployment.rollout()
        if record is not None and record.state in ENDED:
            break
    print(json.dumps({"deaths": deaths, "seqs": seqs}))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
