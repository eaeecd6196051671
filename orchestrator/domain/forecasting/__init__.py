"""Forecast of one drain: durations of past drains, and models of the present one.

``drain_models`` predicts the rest of a drain from the drain itself (``drain_history``): several
models, weighted by how well they would have predicted it so far. ``duration_distribution`` knows
only how long other drains took: a log-normal with an uncertain median and an uncertain spread.
``forecast`` combines the two for one job; ``progress.operation_forecast`` for all jobs of an
operation.
"""
