"""Step runner, retries, batch sizes, rate limits, wake-up events and clock, shared by all loops."""
