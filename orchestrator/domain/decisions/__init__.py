"""What follows for a termination from an observation.

``decide`` is the entry.  It hands an observation to the file of the termination's state:
``before_call``, ``draining`` or ``settling``; ``failed_reads`` and ``call_results`` decide on calls
that failed.  ``transitions`` has the steps that all of them are made of, ``evidence`` says what a
read proves, ``escalation`` when stragglers are called for one by one, ``confirmation`` which
answers need others to confirm them, and ``invariants`` what holds whatever was decided.
"""
