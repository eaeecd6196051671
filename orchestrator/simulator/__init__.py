"""A simulator of Tencent Cloud Batch, and of the CVM actions that show and terminate its machines.

It is for tests and demonstrations. Both APIs have the version 2017-03-12, and one host serves both.

Third-party clients work with it: the vendor's Python and Node SDKs and the ``tccli`` command,
signing with TC3-HMAC-SHA256 or with HmacSHA1/HmacSHA256. It shares no code with the client side of
this project and imports nothing else of ``orchestrator``: the request parser and the signature
check are independent implementations, so that each side detects mistakes of the other.

From the outside in, ``http`` serves the API and the control API over aiohttp, ``simulator`` answers
one request, ``protocol`` parses requests, checks signatures and builds replies, ``api`` executes
the actions, ``cloud`` holds the jobs and their machines, ``traffic`` counts quotas and injects
faults, and ``scenario`` reads scenario files. ``validation`` names every mistake in a document.

``simulator.Simulator.handle`` answers one request synchronously, without a socket. No background
task runs: the state of a job is computed from the clock at each read, and one clock and one seed
determine everything. A job stores its task instances as ranges of equal instances, so that a job
of 20,000 instances costs no more than a job of one. The state of their machines is computed from
the same ranges.

If the vendor's pages are silent or disagree, the behaviour is an option of the job
(``cloud.job_spec.JobSpec``) or of the cloud (``simulator.Simulator``): the code for a job that is
still SUBMITTED, a second TerminateJob, a job that reads FAILED too early, a machine that outlives
its instance, the name of DescribeTask's filter.
Times are seconds since the epoch. Durations are in seconds; their names end in ``_s``.
"""
