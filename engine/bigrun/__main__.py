"""The command `bigrun`, also as `python -m bigrun`."""

from bigrun.process_end import run_command

__all__ = ["main"]


def main() -> None:
    """End as the command line does."""
    run_command(command_line)


def command_line() -> None:
    from bigrun.cli import main as commands

    commands()


if __name__ == "__main__":
    main()
