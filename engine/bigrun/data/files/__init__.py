"""A data set's files: what a source lists, an index knows, or a packed form holds, in one form."""

from bigrun.data.files.entry import Entry, Files
from bigrun.data.files.open import open_files

__all__ = ["Entry", "Files", "open_files"]
