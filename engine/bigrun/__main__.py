"""The command `bigrun`, also as `python -m bigrun`."""

from bigrun.process_end import as_process
from bigrun.standard_streams import open_standard_streams

__all__ = ["main"]


def main() -> None:
    """Run the command line, and end the process as it ends."""
    open_standard_streams()
    as_process(command_line)


def command_line() -> None:
    from bigrun.cli import main as commands

    commands()


if __name__ == "__main__":
    main()
