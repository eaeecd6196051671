"""Entry point of the installed program."""

import os
import signal
import sys


def run() -> None:
    """Run the command line; until a command installs its handler, SIGTERM ends the process.

    That is the default action, but the kernel drops signals without a handler for the first process
    of a container (PID 1). The daemon ignores SIGHUP. Both are set before the slow imports.
    """
    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))
    if "serve" in sys.argv[1:]:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from orchestrator.cli import main  # noqa: PLC0415

    main.run()


if __name__ == "__main__":
    run()
