"""The commands, one module each. `main` declares their options and calls them."""
