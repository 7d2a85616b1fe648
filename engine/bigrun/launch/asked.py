"""What is asked of a cluster in `#SBATCH` lines: checked for form, for only the cluster knows what it has."""

from __future__ import annotations

import re

from bigrun.errors import UsageError
from bigrun.launch.options import WARNING_SECONDS, SlurmOptions

__all__ = ["asked_lines", "check_asked", "seconds_of"]

SIXTY = "[0-5]?[0-9]"
FORMS = (
    r"(?P<minutes>[0-9]{1,6})",
    rf"(?P<minutes>[0-9]{{1,6}}):(?P<seconds>{SIXTY})",
    rf"(?P<hours>[0-9]{{1,6}}):(?P<minutes>{SIXTY}):(?P<seconds>{SIXTY})",
    rf"(?P<days>[0-9]{{1,6}})-(?P<hours>[01]?[0-9]|2[0-3])(?::(?P<minutes>{SIXTY})(?::(?P<seconds>{SIXTY}))?)?",
)
SECONDS = {"days": 86400, "hours": 3600, "minutes": 60, "seconds": 1}
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,:@+/=-]*")
WORD = re.compile(r"--?[A-Za-z][A-Za-z0-9_.,:@+/=%&|*()\[\]!?~^-]*")

LINE = "the script has that line: change it there"
TASKS = "the script starts one task on each machine: say with --gpus N or --processes N what that one starts"
SET = {
    "nodes": "say --nodes N",
    "ntasks-per-node": TASKS,
    "gpus-per-node": "say --gpus N",
    "cpus-per-task": "say --cpus N",
    "time": "say --time TIME",
    "partition": "say --partition NAME",
    "signal": "say --warning-seconds N",
    "requeue": "the script puts the job back itself",
    "job-name": LINE,
    "open-mode": LINE,
    "output": LINE,
}
"""Options of sbatch that the script gives, and what to do."""
AGAINST = {
    "ntasks": TASKS,
    "tasks-per-node": TASKS,
    "ntasks-per-gpu": TASKS,
    "ntasks-per-socket": TASKS,
    "ntasks-per-core": TASKS,
    "gpus": "say --gpus N",
    "gpus-per-task": "say --gpus N",
    "gpus-per-socket": "say --gpus N",
    "gres": "say --gpus N",
    "cpus-per-gpu": "say --cpus N",
    "no-requeue": "for a job that is not to come back use a script with `bigrun launch` alone",
    "array": "its jobs would share one run directory: print a script for each run",
}
"""Options that contradict it."""
TAKEN = SET | AGAINST
SHORT = {
    "N": "nodes", "n": "ntasks", "G": "gpus", "c": "cpus-per-task", "t": "time", "p": "partition", "J": "job-name",
    "o": "output", "a": "array",
}  # fmt: skip
OTHER_GRES = re.compile(r"--gres?[= ](?!gpu\b|.*,gpu\b)")
"""What a machine has beside GPUs, as --gres=tmp:100G."""


def check_asked(slurm: SlurmOptions) -> None:
    """
    Raises:
        UsageError: sbatch would refuse a value, the job would be told before it begins, or an option is given twice.
    """
    warning = WARNING_SECONDS if slurm.warning_seconds is None else slurm.warning_seconds
    if slurm.time is not None and (seconds := seconds_of(slurm.time)) <= warning:
        raise UsageError(
            f"--time {slurm.time} is {seconds} s, and --warning-seconds {warning}: expected a job that is longer than "
            "the time before its end in which it saves"
        )
    if slurm.partition is not None and not NAME.fullmatch(slurm.partition):
        raise UsageError(
            f"--partition {slurm.partition!r}: expected a name of letters, digits and _ . , : @ + / = -, as gpu"
        )
    for option in slurm.more:
        if (name := taken(option)) is not None:
            fault = "is set by the script" if name in SET else "contradicts the script"
            raise UsageError(f"--sbatch={option}: --{name} {fault}; {TAKEN[name]}")
        if not WORD.fullmatch(option):
            raise UsageError(
                f"--sbatch {option!r} is no option of sbatch in one line and one word, as --sbatch=--account=lab; give "
                "--sbatch once for each"
            )


def seconds_of(text: str) -> int:
    """The seconds of a time as Slurm writes it.

    Raises:
        UsageError: it has another form, is 0, or has a part that is a whole one of the part before it.
    """
    found = next(filter(None, (re.fullmatch(form, text) for form in FORMS)), None)
    total = sum(SECONDS[unit] * int(count or 0) for unit, count in found.groupdict().items()) if found else 0
    if total == 0:
        raise UsageError(
            f"--time {text!r}: expected a time of Slurm that is not 0: minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM or "
            "D-HH:MM:SS, as 24:00:00"
        )
    return total


def in_words(time: str) -> str:
    """As `1 day 12 hours`: 24 is minutes to Slurm, and may be meant as hours."""
    left, words = seconds_of(time), list[str]()
    for unit, seconds in SECONDS.items():
        count, left = divmod(left, seconds)
        words += [f"{count} {unit.removesuffix('s') if count == 1 else unit}"] if count else []
    return " ".join(words)


def taken(option: str) -> str | None:
    """The option of the script that this one would be; sbatch takes the beginning of a name for the name."""
    if not option.startswith("--"):
        return SHORT.get(option[1:2]) if option.startswith("-") else None
    if OTHER_GRES.match(option):
        return None
    name = re.split(r"[=\s]", option[2:], maxsplit=1)[0]
    return name if name in TAKEN else next((full for full in TAKEN if len(name) > 2 and full.startswith(name)), None)


def asked_lines(slurm: SlurmOptions) -> dict[str, str]:
    """`asked` and `more` of the script."""
    lines = [f"# Of each turn: {in_words(slurm.time)}.", f"#SBATCH --time={slurm.time}"] if slurm.time else []
    lines += [f"#SBATCH --partition={slurm.partition}"] if slurm.partition is not None else []
    return {
        "asked": "".join(f"{line}\n" for line in lines),
        "more": "".join(f"#SBATCH {option}\n" for option in slurm.more),
    }
