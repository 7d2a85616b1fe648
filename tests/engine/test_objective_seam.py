"""`build_objective` is a seam: what the engine does with an objective that is not its own, right or wrong."""

from __future__ import annotations

import sys
from typing import Any, ClassVar

import pytest
import tomli_w
import torch
import warm
from alone import Alone
from torch import Tensor, nn

from bigrun import hookimpl
from bigrun.checkpoint.store import CheckpointStore
from bigrun.ema import ema_update, frozen_copy
from bigrun.errors import ConfigError, ExitCode, PluginError, RunDirectoryError, UsageError
from bigrun.objective.base import Outputs
from bigrun.objective.dino import DinoObjective
from bigrun.testing.runner import TINY, Runner, RunResult

ALL = ("objective", "masking", "teacher")


class Brings:
    """A plugin with an objective."""

    objective: ClassVar[Any] = Alone
    replaces: ClassVar[Any] = ALL

    @hookimpl
    def build_objective(self, run: Any) -> Any:
        return type(self).objective(run)


def train(bigrunner: Runner, plugin: type, *others: str, **options: Any) -> RunResult:
    """The tiny run with a plugin class of this module, and without the tables that it replaces."""
    module: Any = sys.modules[__name__]
    module.Mine = plugin
    replaced: Any = getattr(plugin, "replaces", ())
    return bigrunner.run(f"{__name__}:Mine", *others, **(dict.fromkeys(replaced) | options))


def of(objective: type) -> type:
    """A plugin class for an objective class."""
    return type("Mine", (Brings,), {"objective": objective})


# -- an objective that is right -------------------------------------------------------------------------------


def test_two_methods_make_an_objective(bigrunner: Runner) -> None:
    result = train(bigrunner, Brings, steps=4, accumulate=2)
    result.assert_finished()
    assert all(row["loss"] == row["loss/height"] for row in result.metrics)
    assert result.losses[-1] < result.losses[0]
    resumed = bigrunner.resume(result, at_step=2)
    assert resumed.losses == result.losses
    assert all(torch.equal(resumed.parameters[name], tensor) for name, tensor in result.parameters.items())


def test_a_network_that_is_student_and_teacher_is_one(bigrunner: Runner) -> None:
    result = train(bigrunner, Brings)
    assert result.run is not None
    store, objective = CheckpointStore(result.directory / "checkpoints"), result.run.objective
    assert set(store.load_tensors(store.path(3), "teacher")) == set(objective.teacher.state_dict())
    assert not (store.path(3) / "student.safetensors").exists()
    counts = [line.split() for line in result.run.header if line.startswith("parameters")]
    assert [name for _, name, _ in counts] == ["backbone", "head"]
    counted = sum(int(count.replace(",", "")) for _, _, count in counts)
    assert counted == sum(p.numel() for p in objective.student.parameters())


@pytest.mark.parametrize("first", [True, False])
def test_a_run_cannot_change_its_objective(bigrunner: Runner, first: bool) -> None:
    """Into the run directory of the one goes the other: refused before anything is written."""
    runs = [lambda **options: train(bigrunner, Brings, **options), lambda **options: bigrunner.run(**options)]
    begin, go_on = runs if first else reversed(runs)
    begun = begin(steps=2)
    begun.assert_finished()
    other = go_on(steps=4, directory=begun.directory)
    assert isinstance(other.error, RunDirectoryError)
    assert "objective.prototypes" in str(other.error)
    assert other.checkpoints == [1, 2]


class Following(Alone):
    """Alone, with a teacher that follows."""

    def __init__(self, run: Any) -> None:
        super().__init__(run)
        self.schedules = run.schedules
        self.teacher = frozen_copy(self.student)

    def update_teacher(self) -> None:
        ema_update(self.teacher, self.student, self.schedules["teacher_momentum"])


class Follows(Brings):
    objective = Following
    replaces = ("objective", "masking")


def test_the_teachers_table_can_be_kept(bigrunner: Runner) -> None:
    result = train(bigrunner, Follows, teacher={"momentum": 0.5, "momentum_end": 0.5})
    result.assert_finished()
    assert result.run is not None
    assert result.run.config.tables()["teacher"] == {"momentum": 0.5, "momentum_end": 0.5}
    assert {row["teacher_momentum"] for row in result.metrics} == {0.5}
    assert not [name for name in result.metrics[0] if "temperature" in name]
    files = {path.name for path in (result.directory / "checkpoints" / "step-00000003").glob("*.safetensors")}
    assert {"student.safetensors", "teacher.safetensors"} <= files
    head = "student.head.weight", "teacher.head.weight"
    assert not torch.equal(*(result.parameters[name] for name in head))
    assert [line.split()[1:-1] for line in result.run.header if line.startswith("parameters")] == [
        ["backbone"], ["head"], ["not", "trained", "(teacher)"],
    ]  # fmt: skip


class Louder:
    """The engine's own objective, a little changed: its tables keep their meaning."""

    @hookimpl
    def build_objective(self, run: Any) -> Any:
        class Loud(DinoObjective):
            def loss_terms(self, outputs: Outputs) -> dict[str, Tensor]:
                return {f"loud_{name}": 2 * term for name, term in super().loss_terms(outputs).items()}

        return Loud(run.config, run.schedules)


def test_an_objective_may_build_on_the_engines_own(bigrunner: Runner) -> None:
    plain, loud = bigrunner.run(steps=1), train(bigrunner, Louder, steps=1)
    loud.assert_finished()
    assert loud.losses == [2 * loss for loss in plain.losses]
    assert "loss/loud_dino_global" in loud.metrics[0]


def test_looking_at_features_leaves_the_network_as_it_was(bigrunner: Runner) -> None:
    class Look:
        seen: ClassVar[list[Any]] = []

        @hookimpl
        def loss_terms(self, run: Any, batch: Any) -> dict[str, Tensor]:
            with run.objective.evaluation() as backbone:
                twice = [backbone(batch.global_crops) for _ in range(2)]
            assert torch.equal(twice[0].cls, twice[1].cls)  # no drop path, no drawn positions
            assert not twice[0].cls.requires_grad
            self.seen.append(all(module.training for module in run.objective.student.modules()))
            return {}

    plain, looked = train(bigrunner, Brings), train(bigrunner, Brings, companions=[Look()])
    looked.assert_finished()
    assert Look.seen == [True] * 3
    assert looked.losses == plain.losses


# -- its tables -----------------------------------------------------------------------------------------------


def test_what_it_replaces_is_neither_chosen_nor_checked_nor_saved(bigrunner: Runner) -> None:
    """A micro-batch of one image has no KoLeo neighbour, and 4 images are few for Sinkhorn-Knopp: nobody asks here."""
    result = train(bigrunner, Brings, accumulate=4)
    result.assert_finished()
    assert result.run is not None
    config = result.run.config
    assert not config.tables().keys() & set(ALL)
    assert not [c.path for c in config.choices if c.path.partition(".")[0] in ALL]
    assert not [text for text in config.warnings if text.partition(".")[0] in ALL or "Sinkhorn" in text]
    assert not {"teacher_temperature", "student_temperature", "teacher_momentum"} & result.metrics[0].keys()


@pytest.mark.parametrize("table", ALL)
def test_a_replaced_table_may_not_be_set(bigrunner: Runner, table: str) -> None:
    option = {"objective": {"prototypes": 64}, "masking": {"shift": True}, "teacher": {"momentum": 0.9}}[table]
    result = train(bigrunner, Brings, **{table: option})
    assert isinstance(result.error, ConfigError)
    message = f"has no effect: plugin {__name__}:Mine replaces it; remove the table"
    assert result.error.problems == ((table, message),)


@pytest.mark.parametrize("tables", [("objektive",), ("model",), "objective", ["teacher"]])
def test_only_tables_of_the_objective_can_be_replaced(bigrunner: Runner, tables: Any) -> None:
    module: Any = sys.modules[__name__]
    module.Mine = type("Mine", (Brings,), {"replaces": tables})
    result = bigrunner.run(f"{__name__}:Mine")
    assert isinstance(result.error, ConfigError)
    assert f"`replaces` is {tables!r}, expected a tuple of some of 'objective'" in str(result.error)


class AlsoBrings(Brings):
    pass


def test_two_objectives_are_one_too_many(bigrunner: Runner) -> None:
    result = train(bigrunner, Brings, f"{__name__}:AlsoBrings")
    assert isinstance(result.error, ConfigError)
    assert f"replaces [objective], and so does {__name__}:Mine" in str(result.error)


def test_who_replaces_tables_must_build_an_objective(bigrunner: Runner) -> None:
    result = train(bigrunner, type("Idle", (), {"replaces": ALL}))
    assert isinstance(result.error, UsageError)
    assert "it replaces [objective], but has built no objective" in str(result.error)


def test_explain_says_that_a_table_is_replaced(bigrunner: Runner) -> None:
    (bigrunner.tmp_path / "brings.py").write_text(
        "from bigrun import hookimpl\n\n\nclass Brings:\n    replaces = ('objective',)\n\n"
        "    @hookimpl\n    def build_objective(self, run): ...\n",
        encoding="utf-8",
    )
    (bigrunner.tmp_path / "own.toml").write_text('[run]\nmax_steps = 9\n[plugins."brings:Brings"]\n', encoding="utf-8")
    done = bigrunner.cli("explain", "objective.prototypes", "--preset", "own.toml")
    assert done.returncode == 0, done.stderr
    assert "own.toml  without effect here: plugin brings:Brings replaces [objective]" in done.stdout


# -- an objective that is wrong ---------------------------------------------------------------------------------


def answering(method: str, answer: Any) -> type:
    """An objective one of whose methods gives an answer from the second step on; `answer` may be a function of it."""

    class Wrong(Alone):
        step = 0

        def prepare(self, step: int, window: Any) -> None:
            self.step = step

    def wrong(self: Any, *arguments: Any) -> Any:
        right = getattr(Alone, method)(self, *arguments)
        return (answer(self) if callable(answer) else answer) if self.step >= 2 else right

    setattr(Wrong, method, wrong)
    return Wrong


def boom(self: Any) -> Any:
    raise ZeroDivisionError("boom")


@pytest.mark.parametrize(
    ("method", "answer", "message"),
    [
        ("forward", None, "expected Outputs, got NoneType"),
        ("forward", torch.zeros(2, 3), "expected Outputs, got Tensor of shape (2, 3)"),
        ("forward", Outputs(None, None), "expected Features of the global crops in Outputs, got NoneType"),  # type: ignore[arg-type]
        ("forward", boom, "ZeroDivisionError: boom"),
        ("loss_terms", None, "expected a mapping of one or more names to tensors of shape (), got NoneType"),
        ("loss_terms", {}, "expected a mapping of one or more names to tensors of shape (), got {}"),
        ("loss_terms", {"x": 1.0}, "got {'x': float}"),
        ("loss_terms", {"x": torch.zeros(3)}, "got {'x': Tensor of shape (3,)}"),
        ("loss_terms", {1: torch.zeros(())}, "got {1: Tensor of shape ()}"),
        ("loss_terms", torch.zeros(()), "got Tensor of shape ()"),
        ("loss_terms", {"x": torch.zeros(()), "y": torch.ones(())}, "none of the terms has a gradient: x, y"),
        ("loss_terms", boom, "ZeroDivisionError: boom"),
        ("statistics", None, "expected a mapping of names to tensors of one element, got NoneType"),
        ("statistics", {"x": torch.zeros(2)}, "got {'x': Tensor of shape (2,)}"),
        ("update_teacher", boom, "ZeroDivisionError: boom"),
    ],
)
def test_a_wrong_answer_is_the_failure_of_the_plugin_that_built_it(
    bigrunner: Runner, method: str, answer: Any, message: str
) -> None:
    result = train(bigrunner, of(answering(method, answer)))
    assert isinstance(result.error, PluginError)
    assert result.exit_code == ExitCode.ERROR
    text = str(result.error)
    assert text.startswith(f"{__name__}:Mine failed in Wrong.{method} at step 2: ")
    assert message in text
    assert "\n" not in text
    assert result.checkpoints == [1]  # what was saved before is there


def test_nothing_is_lost_by_a_failure(bigrunner: Runner) -> None:
    straight = train(bigrunner, Brings)
    failed = train(bigrunner, of(answering("loss_terms", {})))
    again = train(bigrunner, Brings, directory=failed.directory)
    again.assert_finished()
    assert failed.losses + again.losses == straight.losses


class Untaught(Alone):
    def __init__(self, run: Any) -> None:
        super().__init__(run)
        del self.teacher


class Scaled(Alone):
    def __init__(self, run: Any) -> None:
        super().__init__(run)
        self.scale = nn.Parameter(torch.ones(()))


class Colliding(Alone):
    def __init__(self, run: Any) -> None:
        super().__init__(run)
        self.optimizer = nn.Linear(1, 1).requires_grad_(False)


class Forgetful(Alone):
    """The head is beside the student's parts."""

    def trained_modules(self) -> dict[str, nn.Module]:
        return {"backbone": self.student.backbone}


class Twice(Alone):
    def parameter_groups(self, optimizer: Any) -> Any:
        return super().parameter_groups(optimizer) * 2


class Foreign(Alone):
    def parameter_groups(self, optimizer: Any) -> Any:
        groups = super().parameter_groups(optimizer)
        return [groups[0] | {"params": [nn.Parameter(torch.zeros(3))]}, *groups]


class Loose(Alone):
    def parameter_groups(self, optimizer: Any) -> Any:
        return [{"params": list(self.student.parameters())}]


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (Untaught, "Untaught.parts at step 0: TypeError: `teacher` is not a network with a `backbone`"),
        (Scaled, "Scaled.parts at step 0: TypeError: an objective keeps its tensors in child modules; scale belong to"),
        (Colliding, "a checkpoint has a part of the engine's named 'optimizer': rename the child module"),
        (Forgetful, "in no group, but not frozen with requires_grad_(False): student.head.weight, student.head.bias"),
        (Twice, "Twice.parameter_groups at step 0: TypeError: a parameter is in two groups"),
        (Foreign, "a parameter that belongs to no child module of the objective: no checkpoint would hold it"),
        (Loose, "expected a list of groups, each with params, lr_factor, weight_decay_factor, last_layer, got list"),
    ],
)
def test_what_the_first_checkpoint_would_find_is_found_before_the_first_step(
    bigrunner: Runner, objective: type, message: str
) -> None:
    result = train(bigrunner, of(objective))
    assert isinstance(result.error, PluginError)
    assert result.exit_code == ExitCode.ERROR
    assert message in str(result.error)
    assert not result.directory.exists()


class Height:
    @hookimpl
    def loss_terms(self) -> dict[str, Tensor]:
        return {"height": torch.zeros(())}


def test_two_terms_of_one_name_are_refused(bigrunner: Runner) -> None:
    result = train(bigrunner, Brings, f"{__name__}:Height")
    assert isinstance(result.error, UsageError)
    assert "the loss term 'height' comes twice: rename one" in str(result.error)


@pytest.mark.slow
def test_the_command_line_says_it_in_one_line(bigrunner: Runner) -> None:
    (bigrunner.tmp_path / "wrong.py").write_text(
        "from bigrun import hookimpl\n\n\n"
        "class Wrong:\n"
        "    @hookimpl\n"
        "    def build_objective(self, run):\n"
        "        from bigrun.objective.dino import DinoObjective\n\n"
        "        class Silent(DinoObjective):\n"
        "            def loss_terms(self, outputs):\n"
        "                return {}\n\n"
        "        return Silent(run.config, run.schedules)\n",
        encoding="utf-8",
    )
    images = bigrunner.tmp_path / "images"
    images.mkdir()
    from PIL import Image

    for number in range(4):
        Image.new("RGB", (40, 40), (number * 60, 0, 0)).save(images / f"{number}.png")
    tables = {**TINY, "data": {**TINY["data"], "path": str(images)}}
    (bigrunner.tmp_path / "tiny.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")
    done = warm.bigrun(bigrunner.tmp_path, "run", "tiny.toml", "--plugin", "wrong:Wrong")
    assert done.returncode == 1
    assert "error: wrong:Wrong failed in Silent.loss_terms at step 1: TypeError: expected a mapping" in done.stderr
    assert "Traceback" not in done.stderr
