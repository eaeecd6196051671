"""What both sides write of terminations: decisions with their events, turns, postponements."""
