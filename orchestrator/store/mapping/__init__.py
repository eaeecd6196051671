"""Rows and values, each from the other, and rows that cannot be read."""
