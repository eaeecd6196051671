"""Persistence on SQLite or PostgreSQL: SQLAlchemy Core, one aggregate a file.

The store has two sides. ``partition`` is the engine's: it reads what is due in one partition,
writes what the loops decided, and hands out the leases on partitions. ``records`` is the API's: it
stores operations, and reads operations, terminations, instances and events for people.
``partition`` may use ``records`` (a revival creates an operation), never the reverse. Both write
terminations through ``terminations``. Below them: ``database`` opens the database and owns the one
writer, ``events`` chains events, ``mapping`` converts rows to values, ``schema`` has the tables.

**Guarded writes.** A loop reads a termination, decides without a lock and writes later. The UPDATE
repeats in its WHERE clause the state and the revision that the decision was made on; depending on
the decision also the time of the last observation, or the windows that requests may extend. If
another write came first, no row matches: the decision is dropped, no event is written, and a loop
reads the termination again. The same writes first lock the row of their partition under the fencing
token of the lease, and raise LeaseLost if another replica holds it.

**Events.** A change of state and its event are written in one transaction, so that no transition
lacks its event and no event stands for a transition that was rolled back. Each event carries the
hash of the event before it of the same subject, and its number is unique: two writers that would
continue one chain collide, and one of them fails.

**What can fail.** StoreUnavailable: the database cannot be used. If the commit itself failed, it
may have been applied; a repeated write is safe because of its guard. RowsLocked: another session
keeps some rows locked; ``terminations.row_locks`` keeps those terminations from the loops until the
locks are gone. A row that cannot be decoded: ``terminations.set_aside`` keeps that termination from
the loops for a minute at a time. In both cases all other terminations go on.
"""
