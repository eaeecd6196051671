"""Audit trail: events, their hash chain, and the certificate that proves how an operation ended.

Every state change of a termination or of an operation is stored as an event, together with the
observations that the decision was based on (``event_facts``). The events of one subject form a hash
chain (``hash_chain``): the hash of an event covers its content and the hash of the event before it.
A certificate (``certificate``) is one JSON file with these events, the evidence level of each job,
and one sentence for each thing that is not proven (``caveats``).
``certificate_verification`` checks a file offline. Its shape is published as a JSON Schema,
``certificate.schema.json``, so that an auditor's own tools can check it; ``certificate_schema``
does so before the verification.

How the parts of a certificate are tied together:

* A chain starts at the id of its subject, so events cannot be moved to another subject.
* The first event of a termination names its job. The first event of the operation has the hash of
  the set of jobs and of the pairs of job and termination, so no job can be left out or replaced.
* States, evidence, sentences and outcome follow from the events; verification derives them again.
* ``digest`` is the SHA-256 of the certificate. ``seal`` ties the digest to the time of issue and to
  the program that issued it.

What can be changed, and what is detected:

* A changed byte of the file: the digest, the seal or the canonical form does not match.
* An event that was changed, removed or moved, with a new digest: the chain breaks at that event or
  at the next one.
* A chain in which every later hash was computed again: the file alone does not show this. Anyone
  who kept the digest elsewhere sees it. Nothing is signed.
* TerminateJob requests without a reply, requests for single instances (TerminateTaskInstance,
  TerminateInstances) and the observations of a job that has not ended: no event contains them, so
  only the digest protects them.
* Events of an earlier version may lack their observations: the certificate says how many do.
"""
