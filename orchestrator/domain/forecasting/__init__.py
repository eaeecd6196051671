"""Forecast of one drain: durations of past drains, and models of the present one."""
