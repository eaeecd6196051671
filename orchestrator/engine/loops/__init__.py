"""The loops of one partition, a file each.

Each has a name, an event ``wake`` and ``step()``, which does what is due and returns the seconds
until more is.  ``job_poller`` reads many jobs a call, ``job_prober`` one with its counters,
``dispatcher`` calls TerminateJob, ``instance_reader`` captures machines, ``machine_poller`` reads
them, ``escalator`` calls for stragglers one by one, ``revival_watcher`` reads jobs that had
stopped, and ``set_aside`` tries again what was set aside.
"""
