"""Running until something ends it: signals, and the end of standard input."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Iterator

    T = TypeVar("T")

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
STDIN: Final = 0

log = logging.getLogger(__name__)


class Stopped(Exception):
    """A signal ended it, all of its cleaning up included."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by signal {signal_number}")
        self.exit_code = 128 + signal_number


@contextmanager
def on_signals(
    act: Callable[[int], None],
    signals: Collection[signal.Signals] = SIGNALS,
    *,
    ignored_after: Callable[[], bool] = lambda: False,
) -> Iterator[None]:
    """Call ``act`` in the event loop at each of these signals, in place of what they do else."""
    loop = asyncio.get_running_loop()
    for number in signals:
        loop.add_signal_handler(number, act, number)
    try:
        yield
    finally:
        # Removing a handler puts the default in its place, which would end the process.
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        for number in signals:
            loop.remove_signal_handler(number)
            if ignored_after():
                signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)


@contextmanager
def hang_ups_logged() -> Iterator[None]:
    """SIGHUP ends nothing; who expects it to reload the configuration is told what does."""
    text = (
        "SIGHUP is ignored: settings are read at the start, so restart the daemon to take over a "
        "change; keys that were corrected in place are taken over without a restart"
    )
    with on_signals(lambda _: log.warning(text), (signal.SIGHUP,), ignored_after=lambda: True):
        yield


@contextmanager
def stop_event(*, at_end_of_stdin: bool = False) -> Iterator[asyncio.Event]:
    """An event that the first signal sets; further ones change nothing until the process ends."""
    stop = asyncio.Event()
    if at_end_of_stdin:
        _set_at_end_of_stdin(stop)
    with on_signals(lambda _: stop.set(), ignored_after=stop.is_set):
        yield stop


def _set_at_end_of_stdin(stop: asyncio.Event) -> None:
    """So that a child does not outlive a parent that was killed."""
    loop = asyncio.get_running_loop()

    def read() -> None:
        while os.read(STDIN, 1024):
            pass
        with suppress(RuntimeError):  # the loop has ended already
            loop.call_soon_threadsafe(stop.set)

    threading.Thread(target=read, name="stdin", daemon=True).start()


async def cancelled_by_signal(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main``; the first signal cancels it, and once it has cleaned up Stopped is raised."""
    task = asyncio.ensure_future(main)
    received: list[int] = []

    def cancel(number: int) -> None:
        if not received:
            received.append(number)
            task.cancel()

    with on_signals(cancel):
        try:
            return await task
        except asyncio.CancelledError:
            if received:
                raise Stopped(received[0]) from None
            raise
