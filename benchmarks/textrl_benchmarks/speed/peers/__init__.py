"""Peers of the speed benchmark: each does the comparison job in its own virtual environment."""
