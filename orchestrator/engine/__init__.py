"""What drives the terminations: the loops of each partition, and the leases that it is held by.

From the top: ``replica`` renews leases and runs the loops of each partition that it holds,
``loops`` has one file a loop, ``partition`` is what the loops of one partition share, ``runtime``
is what they run on, and ``ports`` are the protocols through which they meet store, cloud and clock.
"""
