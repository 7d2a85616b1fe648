"""`bigrun data fetch`: data sets to try things on, out of package registries or files that are there."""
