"""The loops of one partition, one file each.

Each loop has a kind, a name, an event ``wake`` and a method ``step()``, which does what is due and
returns the seconds until more is due. Loops share the ``Partition`` and never call each other.

- ``job_poller`` reads the state of up to 100 jobs a call (DescribeJobs).
- ``single_job_poller`` reads one job with its instance counters (DescribeJob, DescribeTask).
- ``job_terminator`` sends TerminateJob.
- ``instance_reader`` captures the machines of a job, and rescans live instances (DescribeTask).
- ``machine_poller`` reads captured machines until they are gone (DescribeInstances of CVM).
- ``escalator`` terminates stragglers one by one (TerminateTaskInstance, TerminateInstances).
- ``revival_watcher`` reads stopped jobs, which may run again.
- ``set_aside`` gives terminations that were set aside (not read for a minute after an internal
  error) back to the other loops.
"""
