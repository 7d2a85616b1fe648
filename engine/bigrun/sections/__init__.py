"""The engine's own options, one class per TOML table and one file per class. Torch-free: `bigrun explain` reads it in
milliseconds.

Checks of fields against each other stand in the class that owns the fields (`problems`); checks across tables are
in `rules.py`. Numbers in brackets, as in [spec 7.2], name the section of the recipe in docs/explanation/objective.md.
"""

from bigrun.sections.data import Data
from bigrun.sections.hardware import Hardware
from bigrun.sections.init import Init
from bigrun.sections.masking import Masking
from bigrun.sections.model import Model
from bigrun.sections.objective import Objective
from bigrun.sections.optimizer import Optimizer
from bigrun.sections.parallel import Parallel
from bigrun.sections.run import RunSection
from bigrun.sections.schedule import ScheduleSection
from bigrun.sections.teacher import Teacher
from bigrun.sections.views import Views

__all__ = [
    "Data",
    "Hardware",
    "Init",
    "Masking",
    "Model",
    "Objective",
    "Optimizer",
    "Parallel",
    "RunSection",
    "ScheduleSection",
    "Teacher",
    "Views",
]
