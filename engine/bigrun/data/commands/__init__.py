"""The engine's commands of `bigrun data`, one to a file. Each imports what it needs when it runs."""
