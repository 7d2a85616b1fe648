"""`bigrun run PRESET --dry-run`: some real steps of a run in a scratch directory, of which nothing remains."""
