"""What the installed program runs."""

import os
import signal
import sys


def run() -> None:
    """Run the command line; until a command handles it, SIGTERM ends the process at once.

    It does so by itself, except for the first process of a container (PID 1): for that one the
    kernel drops each signal without a handler.  The daemon ignores SIGHUP.  Both are set before the
    imports, which take long.
    """
    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))
    if "serve" in sys.argv[1:]:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from orchestrator.cli import main  # noqa: PLC0415

    main.run()


if __name__ == "__main__":
    run()
