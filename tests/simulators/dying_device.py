"""A real device process that kills itself with -9 right after it persisted something.

python -m tests.simulators.dying_device FOLDER VERSION WHAT

WHAT is ``name`` or ``name=text``: it dies after that file was put in place, with that text inside. Without
dying it ends once VERSION is in force and reported, and prints what it runs.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from schemas.durable import Disk
from tests.edge_producer.updater_rig import UpdaterRig, edge_settings, quick_machine


class DyingDisk(Disk):
    def __init__(self, what: str) -> None:
        self.name, _, self.text = what.partition("=")

    def rename(self, source: Path, target: Path, *, sync: bool = True) -> None:
        super().rename(source, target, sync=sync)
        named = target.name == self.name or (self.name == "slot" and target.parent.name == "slots")
        if named and (not self.text or self.text in target.read_text()):
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    folder, version, what = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    with UpdaterRig(edge_settings(folder), quick_machine(), DyingDisk(what)) as rig:
        rig.settle(version, 60.0)
        sys.stdout.write(rig.version)


if __name__ == "__main__":
    main()
