"""Search for the id that makes a call for many ids fail, so that the others are still read.

NOT_EXECUTED says nothing about the ids. A refusal does, as Batch authorises its actions job by job
(CAM guide of Batch). Any other failure may, once SUSPECT_AFTER_FAILURES came in a row: the cloud
itself fails as well.

How to search depends on what smaller calls cost, so there are two rules. ``SuspectJobs`` takes the
jobs of a failed call out of the batches and has each half of them called by itself, in turn with
full batches of the others. The job poller needs that: one forbidden job must not shrink the calls
by which thousands of draining jobs are read each second. ``BatchSize`` makes all calls of a loop
smaller until one has a single id. It remembers a number and no ids, and its query need not leave
any out. That is enough where nothing waits for the ids: machines of stopped jobs, and revivals.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from enum import Enum, auto
from typing import TYPE_CHECKING

from orchestrator.domain.errors import NOT_EXECUTED, REFUSALS, CloudError

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from orchestrator.domain.model.termination import Termination
    from orchestrator.engine.ports import Clock

SUSPECT_AFTER_FAILURES = 3
"""After this many failures in a row of such calls, one of their ids may be the reason."""
SHRINK_FACTOR = 10
"""Divisor of the batch size after such a failure.

It is large because each further try costs a pause of the backoff; a refusal costs none.
"""
SUSPECTS_MAX = 4
"""Up to this many jobs of a refused call are no longer searched, but each read singly."""
REFUSED_MAX = 8
"""Refusals after which the action itself counts as forbidden, unless it has ever worked."""
WORKED_RECENTLY_S = 60.0
"""If a call for one job fails, that job is the reason only if another call worked this recently."""
FAULTY_MAX = 100

log = logging.getLogger(__name__)


class BatchSize:
    """Number of ids that one loop may put into its next call, the longest due first."""

    def __init__(self, most: int) -> None:
        self.at_once = most
        self._most = most
        self._failures = 0
        """In a row."""

    def worked(self) -> None:
        """Double the size, up to its maximum, after a call that worked."""
        self._failures = 0
        self.at_once = min(self._most, 2 * self.at_once)

    def failed(self, asked: int, error: CloudError) -> bool:
        """Record that a call with ``asked`` ids failed, and shrink the size if an id may be why.

        Return whether the call had one id only and that id may be the reason.
        """
        if error.kind in NOT_EXECUTED:
            return False
        if error.kind in REFUSALS:
            self.at_once = max(1, asked // 2)
            return asked == 1
        self._failures += 1
        if self.at_once == self._most and self._failures < SUSPECT_AFTER_FAILURES:
            return False
        self.at_once = max(1, asked // SHRINK_FACTOR)
        return asked == 1


class NextRead(Enum):
    """How the jobs of a call that failed are read next."""

    AS_BEFORE = auto()
    """In batches: the failure was not due to one of them."""
    IN_HALVES = auto()
    """Each half of them by a call of its own; the batches leave them out."""
    SINGLY = auto()
    """Each job by itself, by another action."""


class SuspectJobs:
    """Groups of jobs to be called by themselves, since one of them may make calls fail.

    Only one search runs at a time, so they are few. They are lost with the process.
    """

    def __init__(self, name: str, action: str, clock: Clock) -> None:
        """Name the loop and the action of its calls, for the log."""
        self._name = name
        self._action = action
        self._clock = clock
        self._groups: deque[Sequence[Termination]] = deque()
        self._faulty: deque[str] = deque(maxlen=FAULTY_MAX)
        """Ids of terminations whose job alone made a call fail: called alone until that works."""
        self._worked_at = -math.inf
        self._refusals = 0
        """In a row."""
        self._failures: Counter[Hashable] = Counter()
        """In a row, by kind of batch."""

    def next_group(self) -> Sequence[Termination]:
        """Return the jobs to be called next by themselves."""
        return self._groups[0] if self._groups else ()

    def leave_out(self, ids: Sequence[str]) -> Sequence[str]:
        """Return which of these may share a call: none that is suspected or faulty.

        If the first is known to be faulty, only that one is returned.
        """
        suspects = {row.id for group in self._groups for row in group}
        if ids[0] in self._faulty and ids[0] not in suspects:
            return ids[:1]
        suspects.update(self._faulty)
        return [id_ for id_ in ids if id_ not in suspects]

    def worked(self, rows: Sequence[Termination], kind: Hashable) -> None:
        """Record that a call for these jobs worked."""
        self._remove(rows)
        self._refusals, self._worked_at = 0, self._clock.monotonic()
        del self._failures[kind]
        if rows[0].id in self._faulty:
            self._faulty.remove(rows[0].id)

    def failed(self, rows: Sequence[Termination], kind: Hashable, error: CloudError) -> NextRead:
        """Record that a call for these jobs failed, and return how they are read next.

        A job whose own call fails counts as faulty if other calls worked recently. The jobs
        of a refused call are read singly once they are few.
        """
        if error.kind in NOT_EXECUTED:
            return NextRead.AS_BEFORE
        if error.kind in REFUSALS:
            return self._refused(rows, error)
        self._failures[kind] += 1
        faulty = rows[0].id in self._faulty
        often = self._failures[kind] >= SUSPECT_AFTER_FAILURES and not self._groups
        if rows is not self.next_group() and not faulty and not often:
            return NextRead.AS_BEFORE
        self._remove(rows)
        worked_recently = self._clock.monotonic() - self._worked_at <= WORKED_RECENTLY_S
        if len(rows) > 1 or not worked_recently:
            return self._halve(rows)
        if not faulty:
            self._faulty.append(rows[0].id)
            log.warning(
                "%s: %s fails if job %s is among the ids; the job is read by a call of its own: %s",
                self._name,
                self._action,
                rows[0].job_id,
                error.with_advice,
            )
        return NextRead.SINGLY

    def _refused(self, rows: Sequence[Termination], error: CloudError) -> NextRead:
        self._remove(rows)
        self._refusals += 1
        forbidden = self._worked_at == -math.inf and self._refusals >= REFUSED_MAX
        if forbidden and self._refusals == REFUSED_MAX:
            log.warning(
                "%s: %s is refused for all jobs; they are read one by one instead: %s",
                self._name,
                self._action,
                error.with_advice,
            )
        if forbidden or len(rows) <= SUSPECTS_MAX:
            return NextRead.SINGLY
        return self._halve(rows)

    def _remove(self, rows: Sequence[Termination]) -> None:
        """Remove a group that has been called."""
        if rows is self.next_group():
            self._groups.popleft()

    def _halve(self, rows: Sequence[Termination]) -> NextRead:
        half = len(rows) // 2
        self._groups += [part for part in (rows[:half], rows[half:]) if part]
        return NextRead.IN_HALVES
