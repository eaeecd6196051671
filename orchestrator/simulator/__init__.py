"""A stand-in for Tencent Cloud Batch, and for as much of its CVM as shows the machines behind it.

It is for tests and demonstrations; both APIs have the version 2017-03-12, and one host serves both.

Clients written by others accept it: the vendor's Python and Node SDKs and the ``tccli`` command,
signing with TC3-HMAC-SHA256 or with HmacSHA1/HmacSHA256.  Nothing here is shared with the client
side of this project: the parser and the check of signatures are written a second time, so that a
mistake in one is seen by the other.  It imports nothing of the rest of ``orchestrator``.

From the outside in, ``http`` serves the API and the control API over aiohttp, ``simulator`` answers
one request, ``protocol`` parses requests, checks signatures and builds replies, ``api`` carries out
the actions, ``cloud`` holds the jobs and their machines, ``traffic`` counts quotas and injects
faults, and ``scenario`` reads scenario files.

``simulator.Simulator.handle`` answers one request synchronously, without a socket.  No task runs in
the background: the state of a job is computed from the clock at each read, and one clock and one
seed decide everything.  A job keeps its task instances as ranges of equal ones, so that a job of
20,000 costs no more than a job of one; the state of their machines is computed from the ranges too.

Where the vendor's pages are silent or disagree, the choice is a switch of the job
(``cloud.job_spec.JobSpec``) or of the cloud (``simulator.Simulator``): the code for a job that
is still SUBMITTED, a second TerminateJob, a job that reads FAILED too early, a machine that
outlives its instance, the name of DescribeTask's filter.
Times are seconds since the epoch, durations are seconds and end in ``_s``.
"""
