"""Less memory for the same training: states of the optimizer in fewer bits, activations and teacher in host memory."""
