"""Use cases for people: submit, inspect; ``ports`` is what they need from the database."""
