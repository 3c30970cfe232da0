"""From cells to folders: who plays, one cell, workers, and what they leave."""
