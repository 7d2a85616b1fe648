"""wandb: the run in Weights & Biases, by a process of its own."""
