"""Leasing: which replica drives which partition, and how a former holder is kept from acting.

A partition is one account on one API host, the unit of quotas. Exactly one replica may spend its
quotas and write its terminations at a time. Replicas
share nothing but the database, and judge leases by its clock, so their own clocks need not agree.

States of a replica:

* *live*: its row expires ``duration_s`` after its last renewal, by the database's clock.
* *expired*: any replica may delete the row. Deletion is the only way a replica is declared dead. It
  then joins again under a new id.

States of a partition: *free*, or *held* by one live replica. The holder has a fencing token, the
pair (partition, epoch). The epoch grows with every change of holder.

Protocol of each renewal (``LeasePolicy``): the replica extends its row and reads all live replicas
and holders in one transaction (``LeaseSnapshot``). ``assign_partitions`` computes from these names
alone which replica should hold which partition, so all replicas that read the same rows come to the
same result without talking to each other. The replica stops and releases what is not its share, and
takes what is its share and free. Taking a partition is a guarded write: it succeeds only if the
epoch is still the one that was read.

What can fail, and what holds then:

* A replica is paused or cut off from the database. It trusts its lease only for
  ``renewal_deadline_s`` from the moment at which it *asked* for the renewal, by its own monotonic
  clock. This is shorter than ``duration_s``, so it stops sending before another replica may start.
* A write of a former holder arrives late. Every engine write carries the token; with a stale epoch
  it changes nothing and raises ``LeaseLost``.
* A request of a former holder is still under way. The next holder counts all permits as spent for
  one second (``pacing``).
* Replicas read different snapshots. Two may want the same partition, but only one take succeeds;
  the next renewals agree again.
* The database's clock steps. Replicas record the step (``steps_s``). A partition's stored times are
  moved by it when the partition is taken (``followed_s``).
"""
