"""Benchmarks: evaluation, run folders, speed, and the command line `textrl`."""
