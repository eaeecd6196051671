"""The rules, pure and synchronous: no I/O, no clock, no chance of its own.

From the top: ``audit`` proves how an operation ended, ``progress`` says how far it is,
``decisions`` turns an observation into the next value of a termination, ``pacing`` says when calls
may leave, ``model`` has the values that all of these are about, ``forecasting`` says how long a
drain takes, and ``leasing`` who drives a partition.  ``errors`` is the one error tree.

Times are aware UTC datetimes, durations are seconds and carry ``_s`` in their name.
"""
