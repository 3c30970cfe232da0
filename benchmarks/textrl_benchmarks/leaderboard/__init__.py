"""Boards of agents x environments x seeds: plan, run, read, verify, and send in."""
