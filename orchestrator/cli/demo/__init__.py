"""The `demo` command: a daemon and a simulated cloud as child processes.

At its end it compares what the daemon says of each job with the ground truth of the simulator.
"""
