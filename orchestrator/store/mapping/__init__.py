"""Conversion between rows and values, and the handling of rows that cannot be decoded."""
