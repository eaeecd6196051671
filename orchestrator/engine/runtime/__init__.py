"""What all loops run on, one file each.

``loop`` runs the steps of a loop and its calls in flight. ``open_attempts`` sends attempts and
closes those left behind. ``faulty_ids`` finds the id that makes a call fail. ``retry_timer`` makes
pauses after failures, ``rate_limiter`` keeps the quota, ``wakeups`` shortens waits, and
``shared_clock`` follows the clock of the database.
"""
