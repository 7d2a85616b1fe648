"""Several processes of one run: who they are, what they tell each other, and how they share the work of a step."""
