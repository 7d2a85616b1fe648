"""The process in which checks are made: `python -m bigrun.doctor.child ORDER DESCRIPTOR`."""

from __future__ import annotations

import json
import os
import sys
from typing import Any, TextIO

from bigrun.doctor.check import Check, rows_of
from bigrun.doctor.subject import Subject

__all__ = ["main"]


def main(order: str, descriptor: int) -> None:
    """Make checks and write a line of JSON for each beginning, row and end.

    Args:
        order: JSON: `subject` and `checks`, each as keyword arguments.
        descriptor: of a pipe; what libraries print does not get there.
    """
    wanted = json.loads(order)
    subject = Subject.from_facts(wanted["subject"])
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        for facts in wanted["checks"]:
            check = Check(**facts)
            tell(file, begin=check.name)
            for row in rows_of(check, subject):
                tell(file, row=row.as_facts())
            tell(file, end=check.name)


def tell(file: TextIO, **what: Any) -> None:
    file.write(json.dumps(what) + "\n")
    file.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
