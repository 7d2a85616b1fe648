"""What is exported: the teacher's backbone of a verified checkpoint, and the facts about its training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import tomli

from bigrun.checkpoint import manifest
from bigrun.checkpoint.absence import no_checkpoint
from bigrun.checkpoint.disk import hash_file
from bigrun.checkpoint.facts import load_facts, read_config
from bigrun.checkpoint.layout import CHECKPOINTS, CONFIG, EMERGENCY, MANIFEST, holds_checkpoint, is_place
from bigrun.checkpoint.manifest import Manifest
from bigrun.checkpoint.store import CheckpointStore
from bigrun.checkpoint.strict import load_strict
from bigrun.checkpoint.tensors import load_tensors
from bigrun.errors import CheckpointError, ConfigError, DamagedCheckpointError, UsageError
from bigrun.mistyped import did_you_mean_path
from bigrun.refusals import reading
from bigrun.sections import Data, Model, RunSection, Views
from bigrun.values import Problem, structure

if TYPE_CHECKING:
    from torch import Tensor

    from bigrun.model.vit import VisionTransformer

__all__ = ["Source", "find_checkpoint", "read_source", "run_directory"]

NETWORK, PART = "teacher", "backbone."


@attrs.frozen(eq=False)
class Source:
    """A backbone and where it comes from."""

    checkpoint: Path
    manifest: Manifest
    manifest_sha256: str
    tables: Mapping[str, Any]
    """The run's resolved configuration."""
    run: RunSection
    data: Data
    model: Model
    views: Views
    facts: Mapping[str, Any]
    """`state.json` of the checkpoint."""
    weights: Mapping[str, Tensor]
    """Parameters and buffers of the backbone under their own names, which are those of the public DINOv3 weights."""

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return self.manifest.step

    @property
    def size(self) -> int:
        """Side in pixels of the global crops, of the largest if there were several."""
        return max(size for size, _ in self.views.pairs)

    @property
    def tone(self) -> str:
        """What stored values become 0 and 1."""
        from bigrun.data.tone import FullRange  # of checkpoints that do not say it

        return str(self.facts.get("tone") or FullRange().describe())

    @property
    def has_full_range(self) -> bool:
        """Whether that is the whole range of the stored type, which is what other libraries take for granted."""
        from bigrun.data.tone import FullRange

        return self.tone == FullRange().describe()

    @property
    def parameters(self) -> int:
        """Numbers that were learned."""
        return sum(parameter.numel() for parameter in self.network().parameters())

    def network(self) -> VisionTransformer:
        """The network on the meta device: names and shapes, no values."""
        import torch

        from bigrun.model.vit import VisionTransformer

        with torch.device("meta"):
            return VisionTransformer(self.model)

    def backbone(self) -> VisionTransformer:
        """The network in eval mode, on the CPU.

        Raises:
            CheckpointError: the tensors are not those of the configured network.
        """
        network = self.network().to_empty(device="cpu")
        load_strict(network, self.weights, f"{self.checkpoint / NETWORK}.safetensors")
        return network.eval()


def find_checkpoint(path: Path, on_problem: Callable[[str], None]) -> Path:
    """The checkpoint that `path` means: itself, or the newest verified one of a run directory.

    Args:
        on_problem: told of every damaged checkpoint that was passed over.

    Raises:
        UsageError: it is neither, or cannot be read.
        DamagedCheckpointError: every checkpoint of the run is damaged.
    """
    with reading(path):
        path = path.resolve() if path.is_symlink() else path
        if holds_checkpoint(path):
            return path
        if not path.is_dir():
            hint = did_you_mean_path(path, is_source)
            raise UsageError(f"{path}: no such directory{hint}; expected a run directory or one of its checkpoints")
        inner = path / CHECKPOINTS
        try:
            newest = CheckpointStore(inner if inner.is_dir() else path).newest_verified(
                lambda damaged, problems: on_problem(f"{damaged} is damaged and was passed over: {'; '.join(problems)}")
            )
        except CheckpointError as error:
            raise DamagedCheckpointError(str(error)) from None
    if newest is None:
        raise UsageError(no_checkpoint(path))
    return newest


def is_source(path: Path) -> bool:
    """Whether `find_checkpoint` looks for checkpoints there: in a folder of them as well."""
    return is_place(path) or (path.name in (CHECKPOINTS, EMERGENCY) and path.is_dir())


def run_directory(checkpoint: Path) -> Path:
    """The run that a checkpoint is of; of one that was moved out of its run, the directory it is in."""
    home = checkpoint.absolute().parent
    return home.parent if home.name == CHECKPOINTS else home


def read_source(checkpoint: Path) -> Source:
    """Verify a checkpoint, every byte of it, and read its teacher's backbone.

    Raises:
        DamagedCheckpointError: it is damaged, or holds no such network.
        ConfigError: its configuration cannot be understood by this version.
    """
    problems = manifest.verify(checkpoint)
    if problems:
        lines = [f"{checkpoint}: damaged, not exported:", *(f"  {p}" for p in problems)]
        raise DamagedCheckpointError("\n".join(lines))
    tables = tomli.loads(read_config(checkpoint))
    sections: dict[str, Any] = read_sections(tables, str(checkpoint / CONFIG))
    from bigrun.model.scale import folded_scale

    weights = load_tensors(checkpoint, NETWORK).part(PART)
    if not weights:
        text = f"{checkpoint / NETWORK}.safetensors: has no tensors named {PART}*: nothing to export"
        raise DamagedCheckpointError(text)
    sections["model"] = attrs.evolve(sections["model"], scale_embedding=False)
    return Source(
        checkpoint=checkpoint,
        manifest=manifest.read(checkpoint),
        manifest_sha256=hash_file(checkpoint / MANIFEST),
        tables=tables,
        facts=load_facts(checkpoint, "state"),
        weights=folded_scale(weights),
        **sections,
    )


def read_sections(tables: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The tables that an export depends on; others may be of plugins or versions that are not here."""
    problems: list[Problem] = []
    classes = {"run": RunSection, "data": Data, "model": Model, "views": Views}
    sections = {name: structure(tables.get(name, {}), cls, name, problems) for name, cls in classes.items()}
    if problems:
        raise ConfigError(where, problems)
    return sections
