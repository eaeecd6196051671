"""Signal handling, and the end of standard input as a stop signal."""

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
    """A signal cancelled the program, and its cleanup is complete."""

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
    """Call ``act`` in the event loop on each of these signals, instead of their default action."""
    loop = asyncio.get_running_loop()
    for number in signals:
        loop.add_signal_handler(number, act, number)
    try:
        yield
    finally:
        # Removing a handler restores the default action, which would end the process.
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        for number in signals:
            loop.remove_signal_handler(number)
            if ignored_after():
                signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)


@contextmanager
def hang_ups_logged() -> Iterator[None]:
    """Ignore SIGHUP, and log how to apply a changed configuration."""
    text = (
        "SIGHUP is ignored: settings are read at the start, so restart the daemon to apply a "
        "change; keys that were corrected in place are used without a restart"
    )
    with on_signals(lambda _: log.warning(text), (signal.SIGHUP,), ignored_after=lambda: True):
        yield


@contextmanager
def stop_event(*, at_end_of_stdin: bool = False) -> Iterator[asyncio.Event]:
    """Yield an event that the first signal sets; later signals are ignored until the exit."""
    stop = asyncio.Event()
    if at_end_of_stdin:
        _set_at_end_of_stdin(stop)
    with on_signals(lambda _: stop.set(), ignored_after=stop.is_set):
        yield stop


def _set_at_end_of_stdin(stop: asyncio.Event) -> None:
    """Set the event at the end of standard input, so that a child ends with a killed parent."""
    loop = asyncio.get_running_loop()

    def read() -> None:
        while os.read(STDIN, 1024):
            pass
        with suppress(RuntimeError):  # the event loop is closed
            loop.call_soon_threadsafe(stop.set)

    threading.Thread(target=read, name="stdin", daemon=True).start()


async def cancelled_by_signal(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main``; the first signal cancels it. Raise Stopped once its cleanup is complete."""
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
