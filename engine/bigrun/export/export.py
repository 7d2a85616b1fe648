"""`bigrun export`: the backbone of a checkpoint, in the form that another library loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bigrun.checkpoint import disk
from bigrun.checkpoint.layout import parse_step
from bigrun.errors import UsageError
from bigrun.export.card import model_card
from bigrun.export.folder import new_folder, require_free
from bigrun.export.source import find_checkpoint, read_source, run_directory
from bigrun.export.target import ExportError
from bigrun.export.targets.safetensors import Safetensors
from bigrun.export.targets.timm import Timm
from bigrun.export.targets.torchhub import TorchHub
from bigrun.export.targets.transformers import Transformers
from bigrun.export.verify import verify
from bigrun.process import preserved_random_state

if TYPE_CHECKING:
    from bigrun.export.source import Source
    from bigrun.export.target import Target

__all__ = ["TARGETS", "export_checkpoint"]

TARGETS: dict[str, Target] = {target.name: target for target in (Timm(), Transformers(), TorchHub(), Safetensors())}


def export_checkpoint(
    path: Path,
    target: str,
    folder: Path | None = None,
    *,
    require_verified: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write the teacher's backbone with a model card, and compare its features in the target's library.

    Args:
        path: a checkpoint, or a run directory for its newest verified one.
        target: a name of `TARGETS`.
        folder: where to; by default `export/<target>-step-<n>` of the run directory.
        require_verified: whether it is an error when the library is not there to compare with.
        say: told what was done, line by line.

    Returns:
        The folder, complete.

    Raises:
        UsageError: nothing to export, or the target cannot express the model, or the folder is not free.
        DamagedCheckpointError: the checkpoint is damaged.
        ExportError: the features differ, or the folder cannot be written. There is none then.
    """
    chosen = TARGETS[target]
    checkpoint = find_checkpoint(path, say)
    folder = folder or default_folder(checkpoint, chosen)
    require_free(folder)
    source = read_source(checkpoint)
    require_expressible(chosen, source)
    with new_folder(folder) as temporary, preserved_random_state():
        write(temporary, chosen.files(source))
        verdict = verify(chosen, temporary, source, say)
        if require_verified and not verdict.verified:
            raise ExportError(f"{verdict}; nothing was written")
        write(temporary, {"README.md": model_card(chosen, source, verdict, temporary).encode()})
    say(f"exported     the teacher's backbone after step {source.step}, {source.parameters:,} parameters")
    say(f"checkpoint   {checkpoint}")
    say(f"folder       {folder}")
    say(str(verdict))
    return folder


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, contents in files.items():
        disk.write(folder / name, [contents])


def default_folder(checkpoint: Path, target: Target) -> Path:
    """In the run directory; relative where that is below the current one."""
    name = checkpoint.absolute().name
    step = parse_step(name)
    folder = run_directory(checkpoint) / "export" / f"{target.name}-{name if step is None else f'step-{step}'}"
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def require_expressible(target: Target, source: Source) -> None:
    """Raises UsageError naming what the target has no place for, and the targets that have."""
    obstacles = list(target.obstacles(source.model))
    if obstacles:
        able = [name for name, other in TARGETS.items() if not any(other.obstacles(source.model))]
        raise UsageError(
            f"{target.name} has no place for {', '.join(obstacles)}; this backbone can be exported with --to "
            + " or ".join(able)
        )
