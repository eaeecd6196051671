"""Progress of an operation: totals of its instances, and forecasts of its end."""
