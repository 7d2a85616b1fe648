"""A checkpoint that is visited: its networks as they were saved, without anything that trains, and read-only."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import nn

from bigrun.checkpoint import disk, manifest
from bigrun.checkpoint.layout import step_name
from bigrun.checkpoint.tensors import load_tensors
from bigrun.errors import CheckpointError
from bigrun.evaluation.visit import Visit, document_of, visited
from bigrun.markers import hookimpl
from bigrun.run import Run
from bigrun.testing.runner import Runner, RunResult, SyntheticImages


class Images:
    """Brings the data set, a frozen module and a state, as plugins do."""

    state_version = 2

    def __init__(self) -> None:
        self.count = 0

    @hookimpl
    def build_dataset(self) -> Any:
        return SyntheticImages()

    @hookimpl
    def frozen_modules(self, run: Run) -> Mapping[str, nn.Module]:
        anchor = nn.Linear(2, 2)
        return {"anchor": anchor}

    @hookimpl
    def after_step(self, run: Run) -> None:
        self.count += 1
        for parameter in run.frozen["anchor"].parameters():
            parameter.data.fill_(self.count)

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.count = state["count"]


NAME = f"{__name__}:Images"


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    result = Runner(tmp_path_factory.mktemp("visit")).run(NAME, dataset=False)
    result.assert_finished()
    return result


@pytest.fixture
def checkpoint(result: RunResult, tmp_path: Path) -> Path:
    """A copy of the one after step 2."""
    return Path(
        shutil.copytree(result.directory / "checkpoints" / step_name(2), tmp_path / "checkpoints" / step_name(2))
    )


def amend(checkpoint: Path, name: str, change: Any) -> None:
    """Change the text of a file as somebody else might, who makes the manifest fit again."""
    path = checkpoint / name
    text = change(path.read_text())
    path.unlink()
    record = disk.write(path, [text.encode()])
    known = manifest.read(checkpoint)
    (checkpoint / "MANIFEST.json").unlink()
    manifest.write(checkpoint, attrs.evolve(known, files={**known.files, name: record}))


def test_the_networks_are_those_of_the_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    visit = Visit.of(checkpoint)
    with visited(visit, document_of(visit.checkpoint), tmp_path / "out", {}) as run:
        for name, module in run.objective.parts().items():
            saved = load_tensors(checkpoint, name)
            assert saved.keys() == module.state_dict().keys()
            assert all(torch.equal(tensor, saved[key]) for key, tensor in module.state_dict().items())
        assert {"student", "teacher"} <= run.objective.parts().keys()
        assert torch.equal(run.frozen["anchor"].weight, torch.full((2, 2), 2.0))
        assert run.plugins.active[NAME].count == 2
        assert not any(module.training for module in run.objective.modules())
        assert (run.step, run.position) == (2, 8)
        assert run.schedules["learning_rate"] > 0
        assert not hasattr(run, "optimizer")
        assert len(run.dataset) == 12
    assert torch.equal(torch.get_rng_state(), before)
    assert not (tmp_path / "out").exists()


def test_a_visit_is_identified(result: RunResult, checkpoint: Path) -> None:
    visit = Visit.of(result.directory / "checkpoints" / step_name(2))
    assert visit.run_directory == result.directory
    assert visit.name == "step-2"
    assert visit.manifest_sha256 == disk.hash_file(checkpoint / "MANIFEST.json")
    moved = checkpoint.parent.rename(checkpoint.parent.with_name("emergency")) / step_name(2)
    assert Visit.of(moved).name == "emergency-step-2"
    assert Visit.of(moved).run_directory == moved.parents[1]


def test_a_damaged_checkpoint_is_named_with_its_file(checkpoint: Path) -> None:
    path = checkpoint / "teacher.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"step-00000002: damaged:\n  teacher.safetensors: has sha256"):
        Visit.of(checkpoint)


def test_one_that_is_gone_is_said_to_be(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint)
    with pytest.raises(CheckpointError, match=r"step-00000002|MANIFEST"):
        Visit.of(checkpoint)


@pytest.mark.parametrize("text", ["[]", "{}", '{"plugins": 3}', '{"plugins": {"a": []}}'])
def test_a_state_that_is_none_is_refused(checkpoint: Path, text: str) -> None:
    amend(checkpoint, "state.json", lambda old: text)
    with pytest.raises(CheckpointError, match="is not the state of a run"):
        Visit.of(checkpoint)


def test_a_state_without_its_facts_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    amend(checkpoint, "state.json", lambda old: old.replace('"position"', '"nothing"'))
    visit = Visit.of(checkpoint)
    with (
        pytest.raises(CheckpointError, match=r"missing.*position"),
        visited(visit, document_of(checkpoint), tmp_path, {}),
    ):
        pass


def test_the_state_of_a_newer_plugin_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    amend(checkpoint, "state.json", lambda old: old.replace('"state_version": 2', '"state_version": 3'))
    visit = Visit.of(checkpoint)
    with (
        pytest.raises(CheckpointError, match=r"has version 3, this plugin reads up to 2.*--no-plugin"),
        visited(visit, document_of(checkpoint), tmp_path, {}),
    ):
        pass


def test_another_architecture_is_refused_by_name(checkpoint: Path, tmp_path: Path) -> None:
    visit = Visit.of(checkpoint)
    document = document_of(checkpoint, sets=["model.ffn_hidden=48"])
    misfit = r"(student|teacher)\.safetensors: does not fit DinoNetwork"
    with pytest.raises(CheckpointError, match=misfit), visited(visit, document, tmp_path, {}):
        pass
