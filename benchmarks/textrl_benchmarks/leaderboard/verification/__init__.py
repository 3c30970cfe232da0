"""Whether a folder is what it says: formats and hashes, audit, runs again, submissions."""
