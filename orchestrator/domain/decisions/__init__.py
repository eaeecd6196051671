"""Pure decisions: a termination and an observation in, the termination's next value out.

Nothing here does I/O. ``decide.decide`` is the entry; it hands the observation to the module of
the termination's state: ``before_terminate_job`` (``queued``, ``held``, ``sending``), ``draining``
or ``settling``. ``terminate_job_failures`` handles TerminateJob requests that failed, and
``failed_reads`` reads that failed. ``decision`` has the steps that all of them share;
``invariants`` is checked on every decision before it is written.

The claim that must never be wrong is "this job has stopped". It is built up as evidence levels (see
``evidence``):

- 0: the request was accepted by this program. ``TerminateJob`` was not acknowledged, although the
  cloud may act on one whose reply was lost, or on that of another client.
- 1: the cloud acknowledged ``TerminateJob``. The call is asynchronous: instances still run.
- 2: the job is SUCCEED or FAILED. This alone proves little: a job can read FAILED while other
  instances still drain, and FAILED is not final, since anyone can call ``RetryJobs``.
- 3: a count of the instances shows none live, and NextAction (the cloud's pending action on the
  job), if it was read, is not TERMINATING.
  FAILED_INTERRUPTED is live: it keeps its machine. A count below what was submitted, captured or
  counted before proves nothing (``instance_counts``).
- 4: every machine that the job had when TerminateJob was sent is gone. The cloud blanks the machine
  ids of finished instances, so they must be captured before (``capture_coverage``).
- 5: levels 3 and 4 were read again at or after the end of the settle window.

A read confirms only what it carries; other values stay as they were. ``DescribeJobs`` shows the
state and EndTime but no counters, so it can raise a doubt or show a revival, but cannot prove a
stop. A read counts from the time at which its call was sent. Time passing is never evidence.

No final state rests on one answer, with two exceptions. ``refused`` does if the refusal cannot
change (a malformed id), or if the job is SUBMITTED and the request asks to refuse such jobs.
``unverified`` does at the deadline, since it claims nothing. At the end of the settle
window the instances are counted and the captured machines read once more, where that is allowed; a
live instance or a contradiction returns the job to ``draining``. ``already_finished`` needs a
comparison with the submission, where that may be read. ``not_found``, ``refused`` for lack of
permission, and ``unverified`` for a job that cannot be read need several agreeing answers over time
(``unconfirmed_ends``). Reads that fail for another reason contradict nothing, so intermittent
errors cannot postpone the end.

``sending`` means that the outcome of TerminateJob is unknown until its result is stored. After a
crash, a timeout or a conflict the job is read first; TerminateJob is sent again unless that read
proves a stop or shows NextAction TERMINATING. If the job reads FAILED later, it counts as stopped
after TerminateJob, not as ``already_finished``. Instances that do not stop are escalated level by
level within the deadline (``escalation``): TerminateJob again, each instance, each machine, then
manual action. At the deadline the state becomes ``unverified``, with the reason and what a person
can do.

``run`` numbers the runs of the job. A revival begins a new one, and so does a job that ignores
TerminateJob. Each run has its own TerminateJob and its own capture of the machines.
"""
