"""feature-health: whether the teacher's features are those of a network that learns."""
