"""The commands of `textrl`, one module each."""
