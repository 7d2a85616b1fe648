"""memory-guard: says before the memory is full what fills it, and what to change."""
