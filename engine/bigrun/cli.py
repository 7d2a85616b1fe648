"""The command line. Each command imports what it needs when it runs: `bigrun --help` imports neither torch nor rich."""

from __future__ import annotations

import atexit
import contextlib
import signal
import sys
from pathlib import Path
from typing import Any

import click

from bigrun.added_commands import ExtensibleGroup
from bigrun.checkpoints_cli import checkpoints
from bigrun.command_options import complete_preset, device_option, preset_options, training_options
from bigrun.data_cli import data
from bigrun.doctor.command import doctor
from bigrun.drill.command import drill
from bigrun.dry_run.options import DryRunOptions, dry_run_options
from bigrun.evaluation.monitor_command import monitor
from bigrun.launch.command import launch
from bigrun.planner.command import plan
from bigrun.replay.command import replay
from bigrun.tuner.command import tune
from bigrun.version import __version__

__all__ = ["main"]


class Commands(ExtensibleGroup):
    """Turns bigrun's errors into one message and an exit code; anything else is a bug and keeps its traceback."""

    entry_points = "bigrun.commands"

    def invoke(self, ctx: click.Context) -> Any:
        from bigrun.errors import BigrunError
        from bigrun.peers.peers import SaidElsewhere
        from bigrun.terminal import say

        try:
            return super().invoke(ctx)
        except click.NoSuchOption as error:
            longer = [option for option in error.possibilities or () if option.startswith(error.option_name)]
            if longer and error.possibilities:  # `--gpu` is like `--cpus`, too, and means `--gpus`
                error.possibilities[:] = longer
            raise
        except BigrunError as error:
            if not isinstance(error, SaidElsewhere):
                say(f"error: {error}", error=True)
            ctx.exit(int(error.exit_code))
        except KeyboardInterrupt:  # a run listens to signals itself: this is before it began, or after it ended
            click.echo("interrupted", err=True)
            ctx.exit(128 + signal.SIGINT)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="bigrun")
def main() -> None:
    """Pre-train vision transformers by self-supervision, in runs that can be stopped and continued exactly.

    PRESET is the name of a shipped preset (see `bigrun presets`) or the path of a TOML file.
    """
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # --plugin my_module:MyPlugin finds my_module.py here; last: no torch.py does
    from bigrun.terminal import give_up_output

    atexit.register(give_up_output)


@main.command()
@preset_options
@device_option
@training_options
@dry_run_options
@click.pass_context
def run(
    ctx: click.Context,
    /,
    preset: str,
    run_dir: Path | None,
    fresh: bool,
    source: Path | None,
    drop_plugins: tuple[str, ...],
    allowed_changes: tuple[str, ...],
    supervise: bool,
    max_restarts: int | None,
    dry: DryRunOptions,
    **overrides: Any,
) -> None:
    """Train; continues from the newest checkpoint of the run directory if there is one."""
    from bigrun.config import read_preset
    from bigrun.output import Output

    document = read_preset(preset, **overrides)
    if dry.wanted:
        sys.exit(dry.run(ctx, document))
    if supervise:
        from bigrun.supervisor.supervise import Supervisor

        sys.exit(Supervisor(ctx, document).run())
    if max_restarts is not None:
        raise click.UsageError("--max-restarts has no effect without --supervise")
    from bigrun.out_of_memory import OutOfMemory
    from bigrun.peers.place import Place
    from bigrun.session import run_training
    from bigrun.start_again import start_again
    from bigrun.terminal import say

    output = Output(fresh=fresh)
    try:
        finished, code = run_training(
            document,
            run_dir,
            fresh=fresh,
            drop_plugins=drop_plugins,
            allowed_changes=allowed_changes,
            source=source,
            companions={"output": output} | (ctx.obj or {}),
            place=Place.of_environment(),
        )
    except OutOfMemory as error:
        if error.continuation is None:
            raise
        say(f"out of memory: {error}")
        start_again(ctx, error.continuation)
    output.conclude(finished)
    sys.exit(int(code))


@main.command()
@preset_options
@device_option
def check(preset: str, **overrides: Any) -> None:
    """Validate a preset without training, and say what the run would be."""
    from bigrun.check import check_preset
    from bigrun.config import read_preset
    from bigrun.terminal import say

    for line in check_preset(read_preset(preset, **overrides)):
        say(line)


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "target",
    required=True,
    type=click.Choice(["timm", "transformers", "torchhub", "safetensors"]),
    help="The library that is to load it.",
)
@click.option("--out", type=click.Path(path_type=Path), help="New folder.  [default: <run>/export/<target>-step-<n>]")
@click.option(
    "--require-verified", is_flag=True, help="Write nothing when the library is not installed to verify the result."
)
def export(checkpoint: Path, target: str, out: Path | None, require_verified: bool) -> None:
    """Write the teacher's backbone for another library, with a model card, and verify its features there.

    CHECKPOINT is a checkpoint's directory, or a run directory for its newest verified checkpoint.
    """
    from bigrun.export.export import export_checkpoint
    from bigrun.terminal import say

    export_checkpoint(checkpoint, target, out, require_verified=require_verified, say=say)


@main.command()
def plugins() -> None:
    """List installed plugins: what they are and which shipped presets use them."""
    from bigrun.listing import plugin_rows, table

    click.echo(table(("plugin", "kind", "distribution", "version", "active in"), plugin_rows()))


@main.command()
def presets() -> None:
    """List the shipped presets with the first line of each."""
    from bigrun.listing import preset_rows, table

    click.echo(table(("preset", "what it is"), preset_rows()))


@main.command()
@click.argument("key")
@click.option("--preset", shell_complete=complete_preset, help="Also show the value in this preset.")
def explain(key: str, preset: str | None) -> None:
    """Explain an option (model.depth), a table (model) or a plugin's options (plugins.gram-anchoring)."""
    from bigrun.explain import explain_key

    for line in explain_key(key, preset):
        click.echo(line)


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a completion script: `bigrun completion bash > ~/.local/share/bash-completion/completions/bigrun`."""
    from click.shell_completion import get_completion_class

    cls = get_completion_class(shell)
    assert cls is not None
    with contextlib.suppress(BrokenPipeError):
        click.echo(cls(main, {}, "bigrun", "_BIGRUN_COMPLETE").source())


main.add_command(checkpoints)
main.add_command(data)
main.add_command(doctor)
main.add_command(drill)
main.add_command(launch)
main.add_command(monitor)
main.add_command(plan)
main.add_command(replay)
main.add_command(tune)
