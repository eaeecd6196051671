"""The values that everything else is about: operations, terminations, and what the cloud shows.

Frozen dataclasses and enumerations.  ``lifecycle`` is the table of states and events.
"""
