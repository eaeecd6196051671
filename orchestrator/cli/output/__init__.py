"""Output of the commands: terminal-safe text, tables and progress displays."""
