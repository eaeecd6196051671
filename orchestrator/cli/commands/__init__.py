"""The commands, a file each.  `main` declares their options and calls them."""
