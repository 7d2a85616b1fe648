"""[init]: a run that starts from weights that exist."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from torch import Tensor, nn

from bigrun import hookimpl
from bigrun.config import Config, Document, build_config
from bigrun.errors import ConfigError, ExitCode
from bigrun.model.vit import VisionTransformer
from bigrun.objective.base import Network, Objective, Outputs
from bigrun.run import Run
from bigrun.sections import Model
from bigrun.testing.runner import TINY, Runner, RunResult
from bigrun.values import structure
from bigrun.weights.layouts import layout_named


def tiny_model(**options: Any) -> Model:
    model = structure(TINY["model"] | options, Model, "model", [])
    assert model is not None
    return model


def weights(**options: Any) -> dict[str, Tensor]:
    """A backbone of the tiny preset that nobody would get by chance."""
    model = tiny_model(**options)
    generator = torch.Generator().manual_seed(5)
    with torch.random.fork_rng():  # the test's fixture sees to it that a run leaves the global generator alone
        state = VisionTransformer(model).state_dict()
    for name, tensor in state.items():
        if "bias_mask" not in name and "periods" not in name:
            tensor.normal_(std=0.1, generator=generator).add_(1.0 if "norm" in name and "weight" in name else 0.0)
        if name.endswith("qkv.bias"):
            tensor.chunk(3)[1].zero_()
    return state


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The weights in bigrun's own layout."""
    torch.save(weights(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


class Watch:
    """Copies the objective's tensors: what the run begins with (0), and after every update."""

    def __init__(self) -> None:
        self.at: dict[int, dict[str, Tensor]] = {}

    @hookimpl
    def on_start(self, run: Run) -> None:
        self._copy(run, run.step)

    @hookimpl
    def after_update(self, run: Run, step: int) -> None:
        self._copy(run, step)

    def _copy(self, run: Run, step: int) -> None:
        self.at[step] = {name: tensor.clone() for name, tensor in run.objective.state_dict().items()}


def backbone(tensors: Mapping[str, Tensor], network: str) -> dict[str, Tensor]:
    prefix = f"{network}.backbone."
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def same(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def only(result: RunResult, kind: str) -> Any:
    (event,) = [event for event in result.events if event.kind == kind]
    return event


# -- loading ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["dinov3", "timm", "transformers"])
def test_student_and_teacher_begin_with_the_file(bigrunner: Runner, tmp_path: Path, layout: str) -> None:
    state = weights()
    torch.save(layout_named(layout).from_own(state, tiny_model()), tmp_path / "weights.pth")
    watch = Watch()
    result = bigrunner.run(steps=1, companions=[watch], init={"path": str(tmp_path / "weights.pth")})
    result.assert_finished()
    for network in ("student", "teacher"):
        found = backbone(watch.at[0], network)
        if layout == "timm":  # it has no mask token: that of a fresh network, zero, is kept
            assert found["mask_token"].count_nonzero() == 0
            found["mask_token"] = state["mask_token"]
        if layout != "dinov3":  # nor has it a norm of local crops
            assert torch.equal(found["local_cls_norm.weight"], state["norm.weight"])
            found |= {n: t for n, t in state.items() if n.startswith("local_cls_norm")}
        assert same(found, state)
    event = only(result, "initialised")
    assert f"(layout {layout})" in event.message
    assert event.level == "info"
    assert result.run is not None
    assert f"init         {event.message.removeprefix('init: ')}" in result.run.header


def test_heads_are_fresh_and_equal_in_student_and_teacher(bigrunner: Runner, file: Path) -> None:
    watch, other = Watch(), Watch()
    bigrunner.run(steps=1, companions=[watch], init={"path": str(file)}).assert_finished()
    bigrunner.run(steps=1, companions=[other]).assert_finished()
    heads = [name.removeprefix("student.") for name in watch.at[0] if name.startswith("student.dino_head")]
    assert heads
    for name in heads:
        assert torch.equal(watch.at[0][f"student.{name}"], watch.at[0][f"teacher.{name}"])
        assert torch.equal(watch.at[0][f"student.{name}"], other.at[0][f"student.{name}"])  # the seed's, as without


def refused(result: RunResult) -> str:
    """The message; nothing was made."""
    assert isinstance(result.error, ConfigError)
    assert result.exit_code == ExitCode.USAGE
    assert not result.directory.exists()
    return str(result.error)


def test_a_partial_file_is_refused_by_name(bigrunner: Runner, tmp_path: Path) -> None:
    state = weights()
    del state["blocks.1.norm2.weight"]
    state["head.weight"] = torch.zeros(2)
    torch.save(state, tmp_path / "weights.pth")
    message = refused(bigrunner.run(steps=1, init={"path": str(tmp_path / "weights.pth")}))
    assert "init.path" in message
    assert "missing (1): blocks.1.norm2.weight" in message
    assert "unused (1): head.weight" in message
    assert "init.allow_partial = true" in message


def test_a_partial_file_is_taken_when_asked_for(bigrunner: Runner, tmp_path: Path) -> None:
    state = weights()
    gone = "blocks.1.mlp.fc2.weight"
    torch.save({name: tensor for name, tensor in state.items() if name != gone}, tmp_path / "weights.pth")
    watch = Watch()
    init = {"path": str(tmp_path / "weights.pth"), "allow_partial": True}
    result = bigrunner.run(steps=1, companions=[watch], init=init)
    result.assert_finished()
    student, teacher = (backbone(watch.at[0], network) for network in ("student", "teacher"))
    assert same(student, teacher)
    assert not torch.equal(student.pop(gone), state.pop(gone))
    assert same(student, state)
    event = only(result, "initialised")
    assert event.level == "warning"
    assert event.facts["missing"] == [gone]
    assert result.run is not None
    assert f"init         missing (1): {gone}" in result.run.header


def test_the_wrong_layout_is_refused(bigrunner: Runner, file: Path) -> None:
    message = refused(bigrunner.run(steps=1, init={"path": str(file), "layout": "transformers"}))
    assert "its names are of dinov3, not of init.layout = 'transformers'" in message


def test_a_file_of_which_nothing_fits_is_refused_even_as_a_part(bigrunner: Runner, tmp_path: Path) -> None:
    torch.save({"patch_embed.proj.weight": torch.zeros(2), "cls_token": torch.zeros(3)}, tmp_path / "other.pth")
    init = {"path": str(tmp_path / "other.pth"), "allow_partial": True}
    assert "nothing fits" in refused(bigrunner.run(steps=1, init=init))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "no such file; nothing is downloaded"),
        (lambda path: path.write_text("hello"), "neither a safetensors file nor one of torch.save"),
        (lambda path: torch.save({"x": nn.Identity()}, path), "code in a file is never run"),
        (lambda path: torch.save({"fc.weight": torch.zeros(2)}, path), "expected one backbone"),
        (lambda path: path.mkdir(), "is a directory, and no checkpoint"),
    ],
)
def test_what_is_no_file_of_weights_is_refused(bigrunner: Runner, tmp_path: Path, make: Any, says: str) -> None:
    make(tmp_path / "weights.pth")
    message = refused(bigrunner.run(steps=1, init={"path": str(tmp_path / "weights.pth")}))
    assert f"{tmp_path / 'weights.pth'}: " in message
    assert says in message


def test_another_patch_size_is_refused_with_the_way_out_and_fitted_when_asked_for(
    bigrunner: Runner, tmp_path: Path
) -> None:
    torch.save(weights(patch_size_px=7), tmp_path / "weights.pth")
    init = {"path": str(tmp_path / "weights.pth")}
    message = refused(bigrunner.run(steps=1, init=init))
    assert "patch_embed.proj.weight has shape (32, 3, 7, 7), expected (32, 3, 8, 8)" in message
    assert "init.resample_patch_embedding = true" in message
    result = bigrunner.run(steps=1, init=init | {"resample_patch_embedding": True})
    result.assert_finished()
    assert "100 % of parameters" in only(result, "initialised").message


def test_an_option_about_the_file_is_dead_without_one(bigrunner: Runner) -> None:
    for option in ({"heads": True}, {"layout": "timm"}, {"freeze_backbone_steps": 2}, {"allow_partial": True}):
        (name,) = option
        result = bigrunner.run(steps=1, init=option)
        assert f"init.{name}: has no effect because init.path is absent" in str(result.error)


# -- a frozen backbone --------------------------------------------------------------------------------------------


def test_a_frozen_backbone_does_not_change_by_a_bit_while_heads_learn(bigrunner: Runner, file: Path) -> None:
    """Neither the student's nor the teacher's, weight decay or not; then it learns."""
    watch, state = Watch(), weights()
    result = bigrunner.run(
        steps=4, accumulate=2, companions=[watch], init={"path": str(file), "freeze_backbone_steps": 2},
        optimizer={"weight_decay": 0.5}, teacher={"momentum": 0.3, "momentum_end": 0.4},
    )  # fmt: skip
    result.assert_finished()
    for step in (0, 1, 2):
        assert same(backbone(watch.at[step], "student"), state)
        assert same(backbone(watch.at[step], "teacher"), state)
    head = "dino_head.mlp.0.weight"
    assert head in {name.removeprefix("student.") for name in watch.at[0]}
    for step in (1, 2, 3, 4):
        for network in ("student", "teacher"):
            assert not torch.equal(watch.at[step][f"{network}.{head}"], watch.at[step - 1][f"{network}.{head}"])
    for network in ("student", "teacher"):
        changed = backbone(watch.at[3], network)
        still = {name for name in state if torch.equal(changed[name], state[name])}
        assert {name for name in still if "bias_mask" not in name} == {"rope_embed.periods"}
    norms = [row["grad_norm/backbone"] for row in result.metrics]
    assert norms[:2] == [0.0, 0.0]
    assert min(norms[2:]) > 0
    assert only(result, "backbone-released").step == 3


@pytest.mark.parametrize("at_step", [1, 2, 3])
def test_a_resumed_run_is_the_straight_one_and_needs_no_file(bigrunner: Runner, file: Path, at_step: int) -> None:
    straight = bigrunner.run(steps=4, init={"path": str(file), "freeze_backbone_steps": 2})
    straight.assert_finished()
    file.unlink()
    resumed = bigrunner.resume(straight, at_step)
    resumed.assert_finished()
    assert resumed.losses == straight.losses
    assert same(resumed.parameters, straight.parameters)
    assert not [event for event in resumed.events if event.kind == "initialised"]


def test_another_file_is_refused_when_the_run_has_begun(bigrunner: Runner, file: Path) -> None:
    straight = bigrunner.run(steps=2, init={"path": str(file)})
    other = shutil.copy(file, file.with_name("other.pth"))
    assert "init.path" in str(bigrunner.resume(straight, 1, init={"path": str(other)}).error)


class NoHeads(Objective):
    """A backbone and nothing else: class tokens of a student are to be small."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.student = Network()
        self.student.backbone = VisionTransformer(model)
        self.teacher = self.student

    def forward(self, batch: Any, micro: int) -> Outputs:
        return Outputs(self.student.backbone(batch.global_crops), None)

    def loss_terms(self, outputs: Outputs) -> dict[str, Tensor]:
        return {"size": outputs.global_features.cls.square().mean()}


class BringsNoHeads:
    @hookimpl
    def build_objective(self, run: Run) -> Objective:
        return NoHeads(run.config.model)


def test_an_objective_of_one_network_without_heads_starts_from_a_file(bigrunner: Runner, file: Path) -> None:
    init: dict[str, Any] = {"path": str(file), "freeze_backbone_steps": 1}
    message = refused(bigrunner.run(steps=1, companions=[BringsNoHeads()], init=init))
    assert "init.freeze_backbone_steps: without heads nothing learns" in message
    watch = Watch()
    init["freeze_backbone_steps"] = 0
    bigrunner.run(steps=1, companions=[BringsNoHeads(), watch], init=init).assert_finished()
    assert same(backbone(watch.at[0], "student"), weights())


# -- a checkpoint of bigrun's -------------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", [False, True])
def test_a_checkpoint_gives_its_teacher_to_both_networks(bigrunner: Runner, heads: bool) -> None:
    first = bigrunner.run(steps=2)
    checkpoint = first.directory / "checkpoints" / "step-00000002"
    watch = Watch()
    second = bigrunner.run(
        steps=1, companions=[watch], init={"path": str(checkpoint), "heads": heads}, run={"seed": 9, "max_steps": 1}
    )
    second.assert_finished()
    teacher = {n.removeprefix("teacher."): t for n, t in first.parameters.items() if n.startswith("teacher.")}
    for network in ("student", "teacher"):
        found = {n.removeprefix(f"{network}."): t for n, t in watch.at[0].items() if n.startswith(f"{network}.")}
        for name, tensor in teacher.items():
            is_loaded = heads or name.startswith("backbone.")
            assert torch.equal(found[name], tensor) or (not is_loaded and "head" in name), name
        assert torch.equal(found["dino_head.mlp.0.weight"], teacher["dino_head.mlp.0.weight"]) is heads
    assert "100 % of parameters" in only(second, "initialised").message


def test_heads_of_another_shape_are_refused_by_name(bigrunner: Runner) -> None:
    first = bigrunner.run(steps=1)
    init = {"path": str(first.directory / "checkpoints" / "step-00000001"), "heads": True}
    message = refused(bigrunner.run(steps=1, init=init, objective={"prototypes": 32}))
    assert "dino_head.last_layer.weight has shape (64, 16), expected (32, 16)" in message


def test_a_file_has_no_heads(bigrunner: Runner, file: Path) -> None:
    assert "is no checkpoint of bigrun's" in refused(bigrunner.run(init={"path": str(file), "heads": True}))


# -- configuration ------------------------------------------------------------------------------------------------


def config(**tables: dict[str, Any]) -> Config:
    return build_config(Document("test.toml", "test", {"run": {"max_steps": 1000}, **tables}), {}, [])


def test_new_heads_learn_first_by_rule() -> None:
    assert config(optimizer={"warmup_steps": 90}, init={"path": "w.pth"}).init.freeze_backbone_steps == 45
    assert config(optimizer={"warmup_steps": 90}, init={"path": "w", "heads": True}).init.freeze_backbone_steps == 0
    plain = config()
    assert plain.init.freeze_backbone_steps is None
    assert "init" not in {choice.path.split(".")[0] for choice in plain.choices}


def test_a_frozen_backbone_is_not_longer_than_the_run() -> None:
    with pytest.raises(ConfigError, match=r"init\.freeze_backbone_steps: 1001 steps, but the run has run\.max_steps"):
        config(init={"path": "w.pth", "freeze_backbone_steps": 1001})


def test_the_path_does_not_depend_on_where_the_run_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert config(init={"path": "w.pth"}).init.path == str(tmp_path / "w.pth")


# -- bigrun check -------------------------------------------------------------------------------------------------


def write_preset(bigrunner: Runner, **init: Any) -> None:
    document = bigrunner.document({}, init=init)
    (bigrunner.tmp_path / "preset.toml").write_text(tomli_w.dumps(document.tables))


@pytest.mark.slow
def test_check_says_what_the_file_would_give(bigrunner: Runner, tmp_path: Path) -> None:
    torch.save(layout_named("timm").from_own(weights(), tiny_model()), tmp_path / "weights.pth")
    write_preset(bigrunner, path="weights.pth")
    done = bigrunner.cli("check", "preset.toml")
    assert done.returncode == 0, done.stderr
    lines = " ".join(done.stdout.split())
    assert f"% of parameters from {tmp_path / 'weights.pth'} (layout timm)" in lines
    assert "init not in the file (3): local_cls_norm.bias (as norm.bias)" in lines
    assert "by rule init.freeze_backbone_steps = 0 (half of optimizer.warmup_steps" in lines
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_check_refuses_what_the_run_would(bigrunner: Runner, tmp_path: Path) -> None:
    torch.save(weights(depth=3), tmp_path / "weights.pth")
    write_preset(bigrunner, path="weights.pth")
    done = bigrunner.cli("check", "preset.toml")
    assert done.returncode == ExitCode.USAGE
    assert "unused (" in done.stderr
    assert "blocks.2.attn.qkv.weight" in done.stderr
    assert "Traceback" not in done.stderr
