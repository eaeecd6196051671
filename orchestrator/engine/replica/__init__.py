"""Replica: one daemon process, its leases, and the loops of the partitions that it holds.

``domain.leasing`` defines leases, epochs and the assignment of partitions. This package acts on
them: ``lease_manager`` renews the leases and decides which partitions run here; a
``PartitionRunner`` runs the loops of one partition.

Renewal. Each step of ``LeaseManager`` renews all leases in one transaction and reads a snapshot of
all live replicas and holders. From the snapshot alone it decides which partitions to start, stop
and release. It keeps no plan between steps, so the step after a failed one puts things right.

Trust window. A lease is trusted for ``renewal_deadline_s`` after the moment at which its renewal
was *asked for*, by the monotonic clock of this machine. In the database it lasts ``duration_s``,
which is longer. A replica that is paused, or cut off from the database, therefore stops sending
before another may start. ``RateLimiter`` checks the lease twice: before a call begins, and
(``before_send``) when its connection is open, right before the first byte leaves. A renewal that
succeeds later, but before another replica has taken the partition, extends the trust again.

Fencing. Every write of a loop carries the token (partition, epoch) and raises ``LeaseLost`` if the
epoch is stale. The fence guards the database, not the cloud: a request that was sent just before
the lease ended may still arrive. The new holder finds its attempt without a result, and reads the
job before it sends TerminateJob again.

Takeover. A replica takes a partition only when it is free: released, or its holder expired. To move
a partition, the holder stops its loops, waits for its calls in flight and releases it; a NOTIFY of
the database lets the next holder take it at once. A replica that loses a partition does not take it
again before its own calls of the earlier lease have ended, as they still use its quotas.

Partitions without work. Their loops wait to be woken and ask the database nothing; those of a
partition that never had work are not even started. Each step of ``LeaseManager`` finds the work of
all partitions with one query, and a notification of new work comes earlier.

Expiry. A replica whose row was deleted while it could not renew drops all partitions, and joins
again under a new id. ``LeaseLost`` in a loop is not a failure of the loop: it waits and tries again
until the lease manager stops it or the lease is renewed.

Steps of the database's clock. A replica that finds one records it. A partition whose stored times
have not followed it is taken again under a new epoch, in the transaction that moves these times, so
that no decision made by the old time is written afterwards.

Stop. No call is started any more. Calls in flight have ``DRAIN_S`` to end and to have their results
written; then they are cancelled. Each partition is released as soon as its loops have ended, and
the replica removes itself at the end. What could not be given back expires after ``duration_s``.
"""
