"""Where a run comes from: data, code, packages, machine, command."""

from bigrun.provenance.gather import gather
from bigrun.provenance.history import PROVENANCE, record

__all__ = ["PROVENANCE", "gather", "record"]
