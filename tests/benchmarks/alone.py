"""Each measurement in a process of its own: what a run leaves in memory does not slow the next."""

from __future__ import annotations

import asyncio
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


async def measured(
    measure: Callable[..., Coroutine[Any, Any, T]], *args: object, **known: object
) -> T:
    """Run ``measure`` with these arguments in a new process, and return its result."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        work = partial(_run, partial(measure, *args, **known))
        return await asyncio.get_running_loop().run_in_executor(pool, work)


def _run(measure: Callable[[], Coroutine[Any, Any, T]]) -> T:
    return asyncio.run(measure())
