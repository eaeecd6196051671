"""Progress of an operation: totals of its instances, and forecasts of its end.

An operation ends with its last job. The time until the last TerminateJob call follows from the
quota. How long jobs drain is estimated from those that have stopped, in this operation or, while
they are few, in earlier ones. The uncertainty of that estimate is common to all jobs; only what is
left of it is independent. A forecast of its own replaces the estimate for a job where it is
narrower. Assumed: the next drains resemble the last ones, and calls are made at the accepted rate.
An instance that stops only after an escalation is not foreseen before another one has done so.
"""
