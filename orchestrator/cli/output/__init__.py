"""What commands print: text that is safe for a terminal, tables, and progress displays."""
