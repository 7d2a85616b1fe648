"""What happens to one process of several; `--plugin one_of_many.MODULE:NAME`, a theme in each module."""
