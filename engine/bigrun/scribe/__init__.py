"""A library that keeps records elsewhere, in a process of its own: what it does, and how long, is no matter of the
run's."""
