"""Values of the domain: operations, terminations, and what the cloud shows of jobs and machines.

All are frozen dataclasses or enumerations. ``lifecycle`` is the table of states and events.
"""
