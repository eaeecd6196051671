"""Event loop and database of the simulation; ``README.md`` says why they are our own."""
