"""Writes that the engine and the API share: decisions with events, turns, setting aside."""
