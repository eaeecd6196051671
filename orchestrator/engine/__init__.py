"""One file per loop, each with a ``step()`` that tests call.

``ports`` is what the loops work through.
"""
