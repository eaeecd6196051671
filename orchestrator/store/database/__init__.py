"""Connections: one writer with group commit, readers beside it, and the two dialects.

**One writer.** A single task owns the only writing connection. Every write is a function that is
queued. The task takes up to ``GROUP_MAX`` of the waiting ones, runs them in one transaction and
commits: one flush to disk serves many writes. A caller gets its result after the commit only. A
caller that is cancelled has its write made anyway.

**Retries.** A function may run several times, so it changes nothing but its transaction; what else
must happen is registered with ``Transaction.after_commit``.

- One function of a group fails, or is blocked by a lock or a conflict: each function of the group
  runs again in a transaction of its own, and only those at fault fail.
- The connection is lost before the commit: the whole group runs again, ``TRIES`` times at most.
  Lost during the commit it does not run again, since the commit may have been applied.
- Another transaction conflicts (serialization failure, deadlock, the same key stored by another
  replica): the function runs again after a growing pause, for ``CONTENDED_MAX_S`` at most. Others
  are written meanwhile.
- The database cannot be used: all functions of the group fail with StoreUnavailable, with its
  subclass RowsLocked after a lock timeout. The log has the start and the end of an outage.

**Reads.** ``READERS`` connections, each read in one consistent snapshot. Reads that answer requests
leave one connection to the engine.

**Dialects.** Only this package knows which database it runs on.

- SQLite (a file): one process, held by ``process_lock``. ``BEGIN IMMEDIATE`` locks the whole file,
  so event ids follow the order of the commits. Before each commit the file must still be in its
  place. The clock is this machine's, and no replica needs a notification.
- PostgreSQL (a server): any number of replicas. Rows are locked as they are written; an advisory
  lock gives event ids in the order of the commits. Each transaction sets its own timeouts, since a
  pooler may hand it any connection. The clock is the server's. LISTEN/NOTIFY wakes other replicas;
  a notification may be lost, and then only costs time.
"""
