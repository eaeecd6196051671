"""How long one drain takes: the durations of past drains, and models of the present one."""
