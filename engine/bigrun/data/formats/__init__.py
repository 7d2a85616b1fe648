"""Formats of image files: what they are known by, and who decodes them without loss."""
