"""What the loops run on: retries, batch sizes, rate limits, wake-ups, and the shared clock."""
