"""Explanation of a termination: what it waits for, what happens next, or how it ended.

The texts are read by the person on call, in the REST API and in ``orchestrator status``.
``explain.explain`` is the entry. ``waiting_for`` continues the words "waits for"; in a final state
it begins with "nothing: ", unless the termination is set aside.
"""
