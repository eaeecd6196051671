"""The engine's side: reads and writes of one partition, as long as its lease holds."""
