"""Looking at networks without training them: fixed images, features, measures, and checkpoints that are visited."""
