"""Pictures of what a network sees: attention and patch features of images of the data set."""
