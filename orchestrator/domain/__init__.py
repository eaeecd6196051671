"""The rules, pure and synchronous: no I/O, no clock, no chance of its own.

``lifecycle`` owns the states and what leads from one to another; ``decide`` turns what was seen
of a job into the next value of its termination; ``evidence`` says what a look proves; ``quota``
says when a call may leave; ``polling`` says when to look again; ``errors`` is the one error tree.
Times are aware UTC datetimes, durations are seconds and carry ``_s`` in their name.
"""
