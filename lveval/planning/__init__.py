"""Before a run: what it will cost, and whether it can work."""
