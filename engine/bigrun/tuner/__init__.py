"""`bigrun tune`: the settings with which this machine trains a preset fastest, found by short runs of it."""
