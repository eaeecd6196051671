"""Writes of terminations that both sides share: decisions with events, turns, setting aside."""
