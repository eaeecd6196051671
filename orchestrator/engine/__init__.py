"""Engine: the loops that carry terminations from ``queued`` to a final state.

``replica`` renews the leases of this process and runs the loops of each partition that it holds. A
partition is one account on one API host, the unit of quotas. ``loops`` has one file for each loop.
``partition`` is the state that the loops of one partition share, ``paced_calls`` makes the calls
that a loop waits for, and ``runtime`` is the code they run on. ``ports`` declares the store, cloud
and clock that ``composition.py`` supplies. The rules are in ``domain.decisions``: a loop makes an
API call, passes the result to ``decide``, and writes the decision in one transaction under the
fencing token.

A termination's way through the loops of its partition:

1. The API stores it as ``queued`` and wakes the partition. ``job_poller`` and
   ``single_job_poller`` read its job first: TerminateJob is forbidden while the job is SUBMITTED,
   and the job may have finished before.
2. ``instance_reader`` captures the machines of the job before TerminateJob, or along with it.
3. ``job_terminator`` writes an attempt (``sending``), sends TerminateJob under the quota, and
   writes the result. Once acknowledged, it becomes ``draining``.
4. ``job_poller`` reads up to 100 draining jobs a call. When a job reads as finished,
   ``single_job_poller`` counts its instances; if none is live, the termination is ``settling``. If
   instances do not stop, ``instance_reader`` rescans the live ones and ``escalator`` terminates
   them, or their machines.
5. ``machine_poller`` reads the captured machines until they are gone. At the end of the settle
   window ``single_job_poller`` counts once more, and the termination becomes ``verified``.
6. ``revival_watcher`` reads the job for a while longer. If it runs again, the revival is recorded,
   and where that was requested a new operation terminates the job again.

Loops never call each other. A loop finds its work by the states and due times in the database;
``WakeupEvents`` only shorten its waits. A termination whose processing fails is set aside and tried
again later, so that it delays no other.

What survives a crash: every decision, since it is committed before any loop acts on it. An attempt
is committed before its request is sent. After a start, ``job_terminator`` and ``escalator`` close
attempts without a result as ``interrupted``; a job whose TerminateJob may or may not have arrived
is read before the request is repeated. Captures and rescans continue at the stored page.

What is lost, and why that is safe: permits in use (a new holder counts all permits as spent for one
second), the allowed rate, the statistics behind forecasts, the schedule of counts and the jobs to
count for a revival (both are restored by the next poll of each job), and pauses after failures.
"""
