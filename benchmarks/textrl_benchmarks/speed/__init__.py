"""Speed, measured beside peers in one process."""
