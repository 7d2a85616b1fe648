"""`bigrun runs` and `bigrun watch`: runs in a list, and one live, on a terminal."""
