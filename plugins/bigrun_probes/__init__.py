"""probes and `bigrun eval`: what features know that nobody has taught them."""
