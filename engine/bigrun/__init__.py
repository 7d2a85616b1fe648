"""bigrun pre-trains vision transformers by self-supervision, in runs that can be stopped and continued exactly."""

from bigrun.markers import hookimpl
from bigrun.options import option
from bigrun.version import __version__

__all__ = ["__version__", "hookimpl", "option"]
