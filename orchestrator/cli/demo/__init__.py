"""The `demo` command: a daemon and a simulated cloud as child processes.

At the end it compares the state that the daemon reports for each job with the simulator's truth.
"""
