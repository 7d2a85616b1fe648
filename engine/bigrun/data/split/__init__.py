"""Training and validation: which images are for which, as a file."""

from bigrun.data.split.groups import file_groups, file_levels, groups_of, levels_of
from bigrun.data.split.manifest import Split

__all__ = ["Split", "file_groups", "file_levels", "groups_of", "levels_of"]
