"""The engine's side: reads and writes of one partition, as long as its lease is held.

``lease_store`` hands out the leases. A replica is live as long as its row in ``replicas`` exists.
Any replica deletes a row that has expired, which frees the partitions of that replica. Taking a
partition increments its epoch. (Partition, epoch) is the fencing token of the new holder.

Every write of the loops goes through :class:`orchestrator.store.partition.fenced_writes.Fenced`.
Its transaction first locks the row of the partition under the token, and raises LeaseLost if the
epoch has changed. So a replica that was paused, and lost the partition meanwhile, writes nothing;
and no replica can take the partition while a write of its holder is being committed. Reads are not
fenced: a decision on stale rows is not written, since its guard matches no row.

Reads leave out terminations that the loops cannot process: those set aside, and those whose rows
another session keeps locked. All times are by the database's clock; ``clock_steps`` moves the
stored ones along when that clock is changed.
"""
