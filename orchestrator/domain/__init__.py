"""Domain rules: pure and synchronous, with no I/O, no clock and no randomness of their own.

From top to bottom: ``audit`` proves how an operation ended; ``progress`` computes how far it is;
``decisions`` turns an observation into the next value of a termination; ``pacing`` decides when an
API call may be sent; ``model`` holds the values that all of these share; ``forecasting`` estimates
how long a drain takes; ``leasing`` decides which replica holds a partition: one account on one API
host, the unit of quotas. ``errors`` is the one error tree.

Times are aware UTC datetimes. Durations are in seconds, and their names end in ``_s``.
"""
