"""An event loop on virtual time, whose seed picks what runs next, with replicas that can be killed.

What the seed decides and what it does not:

- A turn runs one ready callback, picked by the seed.  Time stands still while anything is ready,
  then jumps to the next timer; what is due at the same time is ready at the same time.
- asyncio's own primitives work in any order, for a task has at most one wake-up under way and each
  of them checks its state again once woken.  Two promises of asyncio are kept, because code may
  rely on them: the callbacks of one future run in the order in which they were added (code that
  awaits a task finds that its earlier done-callbacks have run), and so do the callbacks that one
  replica gave to ``call_soon`` itself.  Not kept: that ``sleep(0)`` lets all other tasks run once,
  that tasks start in the order in which they were made, that waiters wake in the order in which
  they arrived.
- Tasks and futures have a serial number for a hash: asyncio keeps them in sets, and by address
  those would be in another order in another process.  This does not apply to sets of strings.
- No garbage is collected during a run: when that happens depends on what the process did before.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import logging
import sys
import warnings
import weakref
from asyncio.base_events import BaseEventLoop
from collections import deque
from contextlib import contextmanager, suppress
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar, TypeVarTuple
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from random import Random

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

REPLICA: ContextVar[str | None] = ContextVar("replica", default=None)
"""The replica that runs; None: the world around the replicas."""
_CLOSES_MAX = 100
"""How often a coroutine may answer its end with one more await."""


class Stuck(RuntimeError):
    """Every task waits for ever."""


class LimitExceeded(RuntimeError):
    """More turns or more virtual time than the run may take."""


class DeterminismLeak(RuntimeError):
    """Something asks for a thread, a socket or a signal."""


class Killed(BaseException):
    """Raised by the world's seams in code of a killed process."""


@dataclass(frozen=True, slots=True)
class Unhandled:
    """What asyncio would have logged, or a failed task whose result was never retrieved."""

    at_s: float
    replica: str | None
    message: str
    exception: BaseException | None


class _Handle(asyncio.Handle):
    """A callback that may have to wait for another in its lane."""

    __slots__ = ("after", "lane")
    after: _Handle | None
    lane: int | str | None
    _callback: Callable[..., object]
    _context: Context


class _Timer(asyncio.TimerHandle):
    __slots__ = ()
    lane = None
    _callback: Callable[..., object]
    _context: Context
    _when: float


class _Future(asyncio.Future[Any]):
    def __init__(self, *, serial: int, loop: SimulatedLoop) -> None:
        super().__init__(loop=loop)
        self.serial = serial
        self.replica = REPLICA.get()

    def __hash__(self) -> int:
        return self.serial


class _Task(asyncio.Task[Any]):
    _log_destroy_pending: bool
    _log_traceback: bool

    def __init__(self, coro: Any, *, serial: int, context: Context, **known: Any) -> None:
        self.serial = serial
        self.context = context
        self.replica = context.get(REPLICA)
        super().__init__(coro, context=context, **known)

    def __hash__(self) -> int:
        return self.serial


class SimulatedLoop(BaseEventLoop):
    """Runs a world and its replicas; leaving its ``with`` block ends what has not ended.

    SIGKILL runs no ``finally``, but Python runs those of a coroutine that it discards.  So all
    coroutines of a killed replica are kept until the loop is closed, after the run has been
    checked.  Then each coroutine is closed in its own context, where an await never returns,
    nothing is logged and no warning is shown.  What its ``finally`` blocks do without an await they
    still do, that late: a seam that records calls or changes something begins with
    ``require_alive()``.
    """

    _stopping: bool

    def __init__(
        self,
        random: Random,
        *,
        start_s: float = 0.0,
        max_s: float = float("inf"),
        max_turns: int = 1_000_000,
        story_turns: int | None = 50,
    ) -> None:
        super().__init__()
        self.set_debug(False)
        self.turns = 0
        self.fingerprint = 0
        """Digest of every turn so far: two runs that differ in one turn have different digests."""
        self.unhandled: list[Unhandled] = []
        self.on_kill: list[Callable[[str], object]] = []
        """Called with the name of a replica that has just been killed."""
        self._random = random.random
        self._now_s, self._now = start_s, repr(start_s)
        self._max_s = max_s
        self._max_turns = max_turns
        self._story: deque[tuple[float, str | None, str]] = deque(maxlen=story_turns)
        self._serials = count(1)
        self._ready: list[_Handle | _Timer] = []
        self._timers: list[tuple[float, int, _Timer]] = []
        self._turns_awaited: list[tuple[int, int, asyncio.Future[None]]] = []
        self._lanes: dict[int | str, _Handle] = {}
        self._tasks: weakref.WeakSet[_Task] = weakref.WeakSet()
        self._replicas: set[str] = set()
        self._parked: dict[str | None, list[_Handle | _Timer]] = {}
        """Callbacks of paused or killed replicas that would be ready."""
        self._killed: set[str | None] = set()
        self._graves: list[_Task] = []
        self._ended = False

    def __enter__(self) -> Self:
        self._collects = gc.isenabled()
        gc.disable()
        gc.freeze()  # so that the collector examines this run alone
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        gc.unfreeze()
        if self._collects:
            gc.enable()

    # --- what a world does -----------------------------------------------------------------------

    def run(self, world: Coroutine[Any, Any, T]) -> T:
        """Run the world to its end; ``unhandled`` is complete then."""
        try:
            return self.run_until_complete(world)
        finally:
            # Most pending tasks are held by nothing but a cycle, and their time is the close.
            self._graves += [task for task in self._tasks if not task.done()]
            gc.collect()
            for task in sorted(self._tasks, key=lambda task: task.serial):
                if task.done() and task._log_traceback and task.replica not in self._killed:
                    what = f"{task.get_name()} failed, and its result was never retrieved"
                    self._tell(task.replica, what, task.exception())

    def spawn(
        self, replica: str | None, coro: Coroutine[Any, Any, T], *, name: str | None = None
    ) -> asyncio.Task[T]:
        """Start a task of a replica, or of the world (None), from any context."""
        if replica in self._killed:
            coro.close()
            raise ValueError(f"{replica} was killed: what is started again has another name")
        if replica is not None:
            self._replicas.add(replica)
        context = copy_context()
        context.run(REPLICA.set, replica)
        return self.create_task(coro, name=name, context=context)

    def pause(self, replica: str) -> None:
        """Run none of its callbacks until it is resumed; a running one runs to its next await."""
        self._check_runs(replica)
        self._parked[replica] = self._take_timers(replica)
        self.note(f"{replica} is paused")

    def resume(self, replica: str) -> None:
        """Let it run again; all of its overdue timers are due at once."""
        if not self.is_paused(replica):
            raise ValueError(f"{replica} is not paused")
        for handle in self._parked.pop(replica):
            if isinstance(handle, _Timer):
                self._schedule(handle)
            else:
                self._enqueue(handle)
        self.note(f"{replica} is resumed")

    def kill(self, replica: str) -> None:
        """Never run any of its callbacks again; the running one continues to its next await."""
        if not self.is_paused(replica):
            self._check_runs(replica)
        self._killed.add(replica)
        self._parked.setdefault(replica, []).extend(self._take_timers(replica))
        self._graves += [
            task for task in self._tasks if task.replica == replica and not task.done()
        ]
        self.note(f"{replica} is killed")
        for callback in self.on_kill:
            callback(replica)

    async def pass_turns(self, turns: int) -> None:
        """Return after this number of turns, or when nothing else is left to run.

        A world that picks the time of a kill finds every task asleep: steps take no time.
        """
        passed = self.create_future()
        heapq.heappush(self._turns_awaited, (self.turns + turns, next(self._serials), passed))
        await passed

    async def die_here(self) -> NoReturn:
        """Kill the replica that calls this, which never returns."""
        replica = REPLICA.get()
        assert replica is not None, "the world does not die"
        self.kill(replica)
        await self.create_future()
        raise AssertionError("a killed replica ran")

    def is_paused(self, replica: str) -> bool:
        return replica in self._parked and replica not in self._killed

    def is_killed(self, replica: str | None) -> bool:
        return replica in self._killed

    def is_alive(self, replica: str | None) -> bool:
        """Return whether the running code is neither killed nor past the end of the run."""
        return not self._ended and replica not in self._killed

    def require_alive(self) -> None:
        """Raise Killed if the code that runs belongs to no living process."""
        if not self.is_alive(REPLICA.get()):
            raise Killed

    def note(self, what: str) -> None:
        """Add this to the story and to the fingerprint."""
        self._record(None, what)

    @property
    def story(self) -> str:
        """Return the last turns and what was recorded between them."""
        return "\n".join(
            f"{at_s:12.6f} s  {replica or '-'}: {what}" for at_s, replica, what in self._story
        )

    def _check_runs(self, replica: str) -> None:
        if replica not in self._replicas:
            raise ValueError(f"there is no replica {replica}")
        if replica in self._parked:
            raise ValueError(f"{replica} is {'killed' if self.is_killed(replica) else 'paused'}")

    def _take_timers(self, replica: str) -> list[_Handle | _Timer]:
        taken: list[_Handle | _Timer] = []
        left = []
        for entry in self._timers:
            timer = entry[2]
            if timer._context.get(REPLICA) == replica:
                taken.append(timer)
            else:
                left.append(entry)
        heapq.heapify(left)
        self._timers = left
        return taken

    # --- what asyncio asks of a loop -------------------------------------------------------------

    def time(self) -> float:
        return self._now_s

    def create_future(self) -> asyncio.Future[Any]:
        return _Future(serial=next(self._serials), loop=self)

    def create_task(
        self, coro: Any, *, name: object = None, context: Context | None = None, **known: Any
    ) -> asyncio.Task[Any]:
        self._check_closed()
        serial = next(self._serials)
        if context is None:
            context = copy_context()
        # asyncio's own names count the tasks of all loops.
        name = f"Task-{serial}" if name is None else str(name)
        task = _Task(coro, serial=serial, context=context, loop=self, name=name, **known)
        self._tasks.add(task)
        return task

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        self._check_closed()
        handle = _Handle(callback, args, self, context)
        handle.lane = _lane(callback, args, handle._context)
        self._enqueue(handle)
        return handle

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        self._check_closed()
        timer = _Timer(when, callback, args, self, context)
        self._schedule(timer)
        return timer

    def close(self) -> None:
        if self.is_closed():
            return
        self._ended = True
        with _silence(), self._seemingly_running():
            self._end_tasks()
            for held in (self._graves, self._ready, self._timers, self._lanes, self._parked):
                held.clear()
            gc.collect()
        super().close()

    @contextmanager
    def _seemingly_running(self) -> Iterator[None]:
        # Otherwise every call of asyncio in a ``finally`` block fails at once, and code that
        # retries for ever would do so in here.
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            yield
        finally:
            asyncio._set_running_loop(before)

    def _end_tasks(self) -> None:
        for task in sorted(self._tasks, key=lambda task: task.serial):
            task._log_traceback = False
            if not task.done():
                task._log_destroy_pending = False
                task.context.run(self._end, task)

    def _end(self, task: _Task) -> None:
        coro: Any = task.get_coro()
        asyncio.tasks._enter_task(self, task)
        for _ in range(_CLOSES_MAX):
            # It raises what its ``finally`` blocks raise, and RuntimeError when one awaits.
            # A TaskGroup makes a BaseExceptionGroup of its GeneratorExit.
            with suppress(Exception, BaseExceptionGroup, asyncio.CancelledError, Killed):
                coro.close()
                break
        asyncio.tasks._leave_task(self, task)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        match context:
            case {"task": _Task() | _Future() as of} | {"future": _Task() | _Future() as of}:
                replica = of.replica
            case {"handle": _Handle() | _Timer() as handle}:
                replica = handle._context.get(REPLICA)
            case _:
                replica = REPLICA.get()
        if self.is_alive(replica):
            self._tell(replica, context["message"], context.get("exception"))

    def _asyncgen_finalizer_hook(self, agen: Any) -> None:
        # asyncio's own comes from any thread.
        self._asyncgens.discard(agen)
        if not self._ended:
            self.create_task(agen.aclose())

    _asyncgens: weakref.WeakSet[Any]
    _check_closed: Callable[[], None]

    # --- turns -----------------------------------------------------------------------------------

    def _run_once(self) -> None:
        ready, lanes, parked, random = self._ready, self._lanes, self._parked, self._random
        awaited = self._turns_awaited
        while not self._stopping:
            if awaited and awaited[0][0] <= self.turns:
                self._tell_turns()
            if not ready:
                self._advance()
                continue
            at = int(random() * len(ready))
            handle = ready[at]
            ready[at] = ready[-1]
            ready.pop()
            if handle.lane is not None:
                if handle.after is not None:
                    ready.append(handle.after)
                else:
                    del lanes[handle.lane]
            if handle._cancelled:
                continue
            replica = handle._context.get(REPLICA)
            if replica in parked:
                parked[replica].append(handle)
                continue
            self.turns += 1
            if self.turns > self._max_turns:
                raise LimitExceeded(self._described(f"more than {self._max_turns} turns"))
            self._record(replica, _label(handle._callback))
            handle._run()

    def _advance(self) -> None:
        """Go to the time of the next timer, whose turn then comes, and that of those beside it."""
        timers = self._timers
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
        if not timers and self._turns_awaited:
            self._tell_turns()
            return
        if not timers:
            raise Stuck(self._described("everything waits for ever"))
        at_s = timers[0][0]
        if at_s > self._max_s:
            raise LimitExceeded(self._described(f"more than {self._max_s} s of virtual time"))
        self._now_s, self._now = at_s, repr(at_s)
        while timers and timers[0][0] <= at_s:
            self._ready.append(heapq.heappop(timers)[2])

    def _tell_turns(self) -> None:
        _, _, passed = heapq.heappop(self._turns_awaited)
        if not passed.done():
            passed.set_result(None)

    def _enqueue(self, handle: _Handle) -> None:
        handle.after = None
        if handle.lane is None:
            self._ready.append(handle)
            return
        if (last := self._lanes.get(handle.lane)) is None:
            self._ready.append(handle)
        else:
            last.after = handle
        self._lanes[handle.lane] = handle

    def _schedule(self, timer: _Timer) -> None:
        if timer._when <= self._now_s:
            self._ready.append(timer)
        else:
            heapq.heappush(self._timers, (timer._when, next(self._serials), timer))

    def _record(self, replica: str | None, what: str) -> None:
        self._story.append((self._now_s, replica, what))
        self.fingerprint = crc32(f"{self._now} {replica} {what}".encode(), self.fingerprint)

    def _tell(self, replica: str | None, message: str, error: BaseException | None) -> None:
        self.unhandled.append(Unhandled(self._now_s, replica, message, error))

    def _described(self, why: str) -> str:
        paused = sorted(name for name in self._replicas if self.is_paused(name))
        waiting = [
            f"{task.replica or '-'}: {task.get_name()} in {task.get_coro()!r}"
            for task in sorted(self._tasks, key=lambda task: task.serial)
            if not task.done() and task.replica not in self._killed
        ]
        return "\n".join(
            [
                f"{why}, at {self._now_s} s, after {self.turns} turns",
                f"paused: {', '.join(paused) or 'none'}; killed: {len(self._killed)}",
                f"tasks under way: {len(waiting)}",
                *waiting[:20],
                "the story so far:",
                self.story,
            ]
        )


def _refused(name: str) -> Callable[..., NoReturn]:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise DeterminismLeak(f"{name} has no place in a simulation")

    return refuse


for _name in (
    *("call_soon_threadsafe", "run_in_executor", "add_signal_handler", "add_reader", "add_writer"),
    *("create_connection", "create_server", "create_datagram_endpoint", "getaddrinfo"),
    *("create_unix_connection", "create_unix_server", "connect_accepted_socket", "getnameinfo"),
    *("connect_read_pipe", "connect_write_pipe", "subprocess_exec", "subprocess_shell"),
    *("sock_recv", "sock_recv_into", "sock_sendall", "sock_connect", "sock_accept"),
):
    setattr(SimulatedLoop, _name, _refused(_name))


def _lane(callback: object, args: tuple[object, ...], context: Context) -> int | str | None:
    """Return what this has to stay in order with; None: with nothing, as a step of a task."""
    if args and isinstance(args[0], asyncio.Future):
        return id(args[0])
    if not args and isinstance(getattr(callback, "__self__", None), asyncio.Task):
        return None
    return context.get(REPLICA) or ""


def _label(callback: object) -> str:
    """Return a name without an address."""
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return owner.get_name()
    name: str = getattr(callback, "__qualname__", type(callback).__qualname__)
    return name


@contextmanager
def _silence() -> Iterator[None]:
    hook, disabled = sys.unraisablehook, logging.root.manager.disable
    sys.unraisablehook = lambda _: None
    logging.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        sys.unraisablehook = hook
