"""``python -m tests.benchmarks NAME``: measured figures, each beside its target."""

from __future__ import annotations

import asyncio
import sys

from tests.benchmarks import accept, huge, idle, quota, reads

BENCHMARKS = {
    "accept": accept.run,
    "huge": huge.run,
    "idle": idle.run,
    "quota": quota.run,
    "reads": reads.run,
}


def main() -> int:
    if len(sys.argv) != 2 or sys.argv[1] not in BENCHMARKS:
        print(f"usage: python -m tests.benchmarks {{{'|'.join(BENCHMARKS)}}}", file=sys.stderr)
        return 2
    figures = asyncio.run(BENCHMARKS[sys.argv[1]]())
    for figure in figures:
        print(figure)
    return 0 if all(figure.met for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
