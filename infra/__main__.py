"""`python -m infra` and the console script `edgeloop`."""

import traceback

from infra.cli.app import main as run
from infra.process.ending import end_process

__all__ = ["main"]


def main() -> None:
    """Run the command that the arguments name, and end the process with its exit code."""
    try:
        run()
    except SystemExit as exc:
        end_process(exc.code if isinstance(exc.code, int) else int(exc.code is not None))
    except BaseException:  # noqa: BLE001  (nobody foresaw it: it is shown, as Python would)
        traceback.print_exc()
        end_process(1)
    end_process(0)


if __name__ == "__main__":
    main()
