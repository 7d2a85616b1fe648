"""gram-anchoring: candidates for the Gram teacher, how they are scored, kept and chosen."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from safetensors.torch import load_file

from bigrun import hookimpl
from bigrun.errors import CheckpointError, ConfigError, DataError, ExitCode, PluginError
from bigrun.evaluation.rank import rank_me
from bigrun.session import run_training
from bigrun.testing.contract import PluginContract
from bigrun.testing.recorder import Recorder
from bigrun.testing.runner import Runner, RunResult, SyntheticImages
from bigrun_gram.candidates import Candidate, best, comparable, undominated
from bigrun_gram.scores import IMAGES, fixed_images, label_free_scores, patch_cosine
from bigrun_gram.state import State

# The warm-ups end at step 1 (20 % of the run for the teacher's temperature, less where it is cut short).
CHOSEN: dict[str, Any] = {"candidates_every_steps": 1, "start_step": 5, "ramp_steps": 1, "max_refreshes": 0}
WARM: dict[str, Any] = {"teacher_temperature_warmup_steps": 1}


class TestContract(PluginContract):
    plugin = "gram-anchoring"
    config = CHOSEN | {"start_step": 3}
    steps = 4
    depends_on_processes = ("sha256",)


# -- the rule -------------------------------------------------------------------------------------------------


def candidate(step: int, cosine: float, rank: float, dense: float | None = None, has_learned: bool = True) -> Candidate:
    return Candidate(step, cosine, rank, dense, None, has_learned)


scores = st.floats(0, 1).map(lambda x: round(x, 1))  # coarse, so that equal ones are frequent
ranks = st.sampled_from([10.0, 89.0, 90.0, 95.0, 100.0])


@st.composite
def several(draw: st.DrawFn) -> list[Candidate]:
    rows = draw(st.lists(st.tuples(scores, ranks, st.none() | scores, st.booleans()), min_size=1, max_size=8))
    return [candidate(step, *row) for step, row in enumerate(rows, 1)]


@settings(deadline=None, max_examples=200)
@given(several())
def test_the_best_has_the_lowest_patch_cosine_among_those_that_tell_images_apart(candidates: list[Candidate]) -> None:
    chosen = best(candidates)
    if all(c.dense_score is not None for c in candidates):
        assert chosen.dense_score == max(c.dense_score or 0 for c in candidates)
        return
    assert chosen.has_learned == any(c.has_learned for c in candidates)
    others = [c for c in candidates if c.has_learned == chosen.has_learned]
    highest = max(c.rank for c in others)
    assert chosen.rank >= 0.9 * highest
    assert all(chosen.patch_cosine <= c.patch_cosine for c in others if c.rank >= 0.9 * highest)


@settings(deadline=None, max_examples=200)
@given(several(), st.randoms())
def test_who_is_dominated_is_never_the_best_and_order_does_not_matter(candidates: list[Candidate], random: Any) -> None:
    shuffled = list(candidates)
    random.shuffle(shuffled)
    kept = undominated(candidates)
    assert best(candidates) == best(shuffled) == best(kept)
    assert sorted(c.step for c in undominated(shuffled)) == [c.step for c in kept]
    one_by_one: list[Candidate] = []
    for c in candidates:
        one_by_one = undominated([*one_by_one, c])
    assert one_by_one == kept


def test_some_choices_by_hand() -> None:
    collapsed, sharp, later = candidate(10, 0.1, 50), candidate(20, 0.4, 100), candidate(30, 0.5, 108)
    assert best([collapsed, sharp, later]) == sharp
    assert best([sharp, candidate(40, 0.4, 100)]) == sharp
    assert best([candidate(10, 0.9, 5, 0.7), candidate(20, 0.1, 100, 0.6)]).step == 10
    assert best([candidate(10, 0.9, 5, 0.7), candidate(20, 0.1, 100)]).step == 20
    stuck = candidate(5, 0.1, 110, has_learned=False)
    assert best([stuck, sharp, later]) == sharp
    assert best([stuck, candidate(6, 0.2, 110, has_learned=False)]) == stuck
    assert undominated([collapsed, sharp, later]) == [collapsed, sharp, later]
    assert undominated([candidate(10, 0.6, 100), later]) == [later]


# -- the scores -----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.integers(2, 7), st.integers(1, 6))
def test_the_patch_cosine_is_the_mean_over_all_pairs_of_different_patches(seed: int, patches: int, width: int) -> None:
    features = torch.randn(2, patches, width, generator=torch.Generator().manual_seed(seed))
    directions = torch.nn.functional.normalize(features, dim=-1)
    pairs = [(i, j) for i in range(patches) for j in range(patches) if i != j]
    expected = [sum(float(d[i] @ d[j]) for i, j in pairs) / len(pairs) for d in directions]
    assert patch_cosine(features).tolist() == pytest.approx(expected, abs=1e-5)


def test_the_patch_cosine_of_equal_and_of_orthogonal_patches() -> None:
    assert patch_cosine(torch.ones(1, 9, 4)).item() == pytest.approx(1)
    assert patch_cosine(torch.eye(9)[None]).item() == pytest.approx(0, abs=1e-6)


def test_rank_me_counts_directions_and_is_not_fooled_by_a_constant() -> None:
    assert rank_me(torch.eye(16)) == pytest.approx(16, rel=1e-3)
    assert rank_me(torch.ones(64, 16)) == pytest.approx(1, rel=1e-3)
    noise = torch.randn(512, 64, generator=torch.Generator().manual_seed(0))
    assert rank_me(1 + 0.02 * noise) < 16  # centred, it would be near 64
    assert rank_me(noise) > 50
    assert rank_me(noise * 1e-3) == pytest.approx(rank_me(noise))


def test_the_images_are_always_the_same_and_no_more_than_so_many(bigrunner: Runner) -> None:
    run = bigrunner.run(dataset=SyntheticImages(IMAGES + 50, size_px=33)).run
    assert run is not None
    batches = list(fixed_images(run).batches(run.device))
    assert sum(len(b.indices) for b in batches) == IMAGES
    assert {b.crops.shape[1:] for b in batches} == {(3, 32, 32)}
    run.position = 10**6
    for again, before in zip(fixed_images(run).batches(run.device), batches, strict=True):
        assert torch.equal(again.crops, before.crops)
    assert batches[0].indices[0] == 0
    first = torch.nn.functional.interpolate(
        SyntheticImages(size_px=33)[0][None].float() / 255, (32, 32), mode="bicubic", antialias=True
    ).clamp(0, 1)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (run.config.views.mean, run.config.views.std))
    torch.testing.assert_close(batches[0].crops[:1], (first - mean) / std, atol=0.02, rtol=0)


class Damaged(SyntheticImages):
    """Two images of twelve cannot be read any more, once training has been."""

    is_damaged = False

    def __getitem__(self, index: int) -> torch.Tensor:
        if self.is_damaged and index in (0, 5):
            raise DataError(f"image {index} is damaged")
        return super().__getitem__(index)


class Ear:
    def __init__(self) -> None:
        self.heard: list[Any] = []

    @hookimpl
    def on_event(self, event: Any) -> None:
        self.heard.append(event)


def test_an_image_that_cannot_be_read_is_left_out(bigrunner: Runner) -> None:
    dataset = Damaged()
    run = bigrunner.run(dataset=dataset).run
    assert run is not None
    dataset.is_damaged = True
    assert sum(len(b.indices) for b in fixed_images(run).batches(run.device)) == 10
    ear = Ear()
    run.plugins.manager.register(ear)
    with run.objective.evaluation() as backbone:
        assert label_free_scores(run, backbone) is not None
    (event,) = ear.heard
    assert "2 of the 12 images that candidates are scored on cannot be read" in event.message
    dataset.length = 1
    with run.objective.evaluation() as backbone, pytest.raises(DataError, match="none of the images"):
        label_free_scores(run, backbone)


# -- the run --------------------------------------------------------------------------------------------------


def chosen_run(bigrunner: Runner, **options: Any) -> RunResult:
    config = CHOSEN | options.pop("config", {})
    options = {"steps": 6, "objective": WARM} | options
    return bigrunner.run("gram-anchoring", config=config, **options)


def folder(result: RunResult) -> Path:
    return result.directory / "gram-anchoring" / "candidates"


def state_at(result: RunResult, step: int) -> Any:
    assert result.run is not None
    store = result.run.checkpoints
    return store.load_facts(store.path(step), "state")["plugins"]["gram-anchoring"]["state"]


def tensors_at(result: RunResult, step: int, part: str, prefix: str) -> dict[str, torch.Tensor]:
    assert result.run is not None
    tensors = result.run.checkpoints.load_tensors(result.run.checkpoints.path(step), part)
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def messages(result: RunResult, kind: str) -> list[str]:
    return [event.message for event in result.events if event.kind == kind]


def test_t23_the_best_candidate_becomes_the_gram_teacher_at_the_start(bigrunner: Runner) -> None:
    result = chosen_run(bigrunner)
    result.assert_finished()
    assert [e.step for e in result.events if e.kind == "gram-candidate"] == [1, 2, 3, 4]
    (event,) = [e for e in result.events if e.kind == "gram-teacher"]
    assert event.step == 5  # in the step that begins
    rows = state_at(result, 4)["candidates"]
    everyone = [
        candidate(e.step, e.facts["patch_cosine"], e.facts["rank"], has_learned=e.facts["has_learned"])
        for e in result.events
        if e.kind == "gram-candidate"
    ]
    assert [row["step"] for row in rows] == [c.step for c in undominated(everyone)]
    chosen = best(everyone).step
    assert event.facts["chosen"] == chosen
    assert f"step {chosen} is the best of the candidates" in event.message
    assert "patch cosine" in event.message
    assert tensors_at(result, 4, "frozen", "gram_teacher/") == {}
    gram = tensors_at(result, 5, "frozen", "gram_teacher/")
    teacher = tensors_at(result, chosen, "teacher", "backbone.")
    assert gram.keys() == teacher.keys()
    for name in gram:  # bf16 but for the periods of RoPE
        assert torch.equal(gram[name], teacher[name] if "periods" in name else teacher[name].bfloat16().float()), name
    assert [row["step"] for row in result.metrics if "loss/gram" in row] == [5, 6]


PLAIN = {"global_scale": [1.0, 1.0], "aspect_ratio": [1.0, 1.0], "blur_probability": [0.0, 0.0, 0.0]} | {
    f"{name}_probability": 0.0 for name in ("flip", "colour", "grayscale", "solarise")
}


@pytest.mark.parametrize(("temperature", "learned"), [(0.1, False), (0.005, True)])
def test_a_candidate_has_learned_when_the_dino_loss_has_left_ln_k(
    bigrunner: Runner, temperature: float, learned: bool
) -> None:
    """The loss of the candidate's own step, as the log has it: of the pairs of one image's crops, a third are global.
    Two networks with sharp prototypes soon agree about equal crops."""
    sharp = {
        "student_temperature": temperature,
        "teacher_temperature": temperature,
        "ibot_weight": 0.0,
        "centring": "softmax",
    }
    result = chosen_run(
        bigrunner, steps=8, run={"log_every_steps": 1}, objective=WARM | sharp, views=PLAIN, config={"start_step": 9},
        companions=[Merits({step: step / 10 for step in range(1, 9)})],
    )  # fmt: skip
    result.assert_finished()
    below = [row["loss/dino_global"] < 0.97 / 3 * math.log(64) for row in result.metrics]
    assert below[-1] is learned
    assert [e.facts["has_learned"] for e in result.events if e.kind == "gram-candidate"] == below
    assert state_at(result, 8)["candidates"][-1]["has_learned"] is learned


def test_where_there_is_no_dino_loss_every_candidate_has_learned(bigrunner: Runner) -> None:
    result = chosen_run(bigrunner, objective=WARM | {"dino_weight": 0.0})
    result.assert_finished()
    assert {e.facts["has_learned"] for e in result.events if e.kind == "gram-candidate"} == {True}


def test_until_the_gram_loss_counts_nothing_is_changed_by_the_candidates(bigrunner: Runner) -> None:
    without = bigrunner.run(steps=6, objective=WARM)
    scored = chosen_run(bigrunner, config={"start_step": 7})
    scored.assert_finished()
    assert len(messages(scored, "gram-candidate")) == 6
    assert scored.losses == without.losses
    for name, tensor in without.parameters.items():
        assert torch.equal(scored.parameters[name], tensor), name


def test_only_files_of_candidates_that_can_still_be_chosen_are_kept(bigrunner: Runner) -> None:
    result = chosen_run(bigrunner)
    rows = state_at(result, 6)["candidates"]
    assert {path.name for path in folder(result).iterdir()} == {f"step-{row['step']:08d}.safetensors" for row in rows}
    unmoved = chosen_run(bigrunner, teacher={"momentum": 1.0, "momentum_end": 1.0})  # all are equal: the first is kept
    (path,) = folder(unmoved).iterdir()
    assert path.name == "step-00000001.safetensors"
    tensors = load_file(path)
    assert tensors["blocks.0.attn.qkv.weight"].dtype == torch.bfloat16
    assert tensors["rope_embed.periods"].dtype == torch.float32


def test_candidates_begin_when_the_warm_ups_have_ended(bigrunner: Runner) -> None:
    config = {"candidates_every_steps": 2, "start_step": 9, "ramp_steps": 1, "max_refreshes": 0}
    result = bigrunner.run("gram-anchoring", config=config, steps=8, optimizer={"warmup_steps": 3})
    assert [e.step for e in result.events if e.kind == "gram-candidate"] == [4, 6, 8]
    assert result.run is not None
    assert any("the best of those of steps 4, every 2, to 8" in line for line in result.run.header)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return chosen_run(Runner(tmp_path_factory.mktemp("straight")))


@pytest.mark.parametrize("at_step", [1, 3, 4, 5])
def test_t23_a_run_killed_among_its_candidates_continues_bit_for_bit(
    bigrunner: Runner, straight: RunResult, at_step: int
) -> None:
    resumed = bigrunner.resume(straight, at_step)
    resumed.assert_finished()
    assert resumed.losses == straight.losses
    assert state_at(resumed, 6) == state_at(straight, 6)


def test_candidates_in_bf16_continue_bit_for_bit(bigrunner: Runner) -> None:
    hardware = {"device": "cpu", "precision": "bf16", "threads": 1}
    straight = chosen_run(bigrunner, hardware=hardware, config={"crop_factor": 2.0})
    straight.assert_finished()
    resumed = bigrunner.resume(straight, 3)
    assert resumed.losses == straight.losses
    assert state_at(resumed, 6) == state_at(straight, 6)


@pytest.mark.parametrize(("changed", "start"), [({"weight": 1.0}, 6), ({"start_step": 3}, 6), ({"start_step": 7}, 7)])
def test_candidates_outlive_a_change_of_other_options(bigrunner: Runner, changed: dict[str, Any], start: int) -> None:
    """Of steps 2 and 4; after step 5 there is none to come, and the best of them is still older than the teacher."""
    config = {"candidates_every_steps": 2, "start_step": 6}
    first = chosen_run(bigrunner, steps=5, config=config, companions=[Merits({2: 0.1, 4: 0.9})])
    result = chosen_run(bigrunner, steps=8, config=config | changed, directory=first.directory)
    result.assert_finished()
    (event,) = [e for e in result.events if e.kind == "gram-teacher"]
    everyone = [Candidate(**row) for row in state_at(result, start - 1)["candidates"]]
    assert (event.step, event.facts["chosen"]) == (start, best(everyone).step)
    assert result.run is not None
    assert any("the best of those of steps 2, every 2" in line for line in result.run.header)


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("harm", [damage, Path.unlink])
def test_a_candidate_whose_file_is_harmed_is_passed_over(bigrunner: Runner, harm: Any) -> None:
    """Each has another merit, so that both stay."""
    first = chosen_run(bigrunner, steps=4, companions=[Merits({1: 0.9, 2: 0.1})])
    everyone = [Candidate(**row) for row in state_at(first, 4)["candidates"]]
    assert len(everyone) > 1
    chosen = best(everyone)
    rest = [c for c in everyone if c != chosen]
    harm(folder(first) / f"step-{chosen.step:08d}.safetensors")
    result = chosen_run(bigrunner, directory=first.directory, run={"checkpoint_every_steps": 100})
    result.assert_finished()
    (warning,) = [e for e in result.events if e.kind == "gram-candidate" and e.level == "error"]
    assert f"the candidate of step {chosen.step} is passed over" in warning.message
    (event,) = [e for e in result.events if e.kind == "gram-teacher"]
    assert event.facts["chosen"] == best(rest).step


def test_without_a_candidate_the_run_ends_and_says_what_to_do(bigrunner: Runner) -> None:
    first = chosen_run(bigrunner, steps=4)
    for path in folder(first).iterdir():
        path.unlink()
    result = chosen_run(bigrunner, directory=first.directory)
    assert isinstance(result.error, CheckpointError)
    assert result.exit_code == ExitCode.ERROR
    assert "no Gram teacher for step 5: the file of every candidate is missing or damaged" in str(result.error)
    later = chosen_run(bigrunner, directory=first.directory, config={"start_step": 6})
    later.assert_finished()
    assert next(e.facts["chosen"] for e in later.events if e.kind == "gram-teacher") == 5
    off = chosen_run(bigrunner, directory=first.directory, config={"mode": "off"}, steps=7)
    off.assert_finished()


class Merits:
    """A plugin that has labels, or says so."""

    def __init__(self, scores: dict[int, Any]) -> None:
        self.scores = scores
        self.asked: list[tuple[int, bool]] = []

    @hookimpl(optionalhook=True)
    def dense_score(self, run: Any, backbone: torch.nn.Module) -> Any:
        self.asked.append((run.step, backbone.training))
        return self.scores.get(run.step)


def test_a_plugin_with_labels_decides(bigrunner: Runner) -> None:
    for winner in (1, 2, 3, 4):
        merits = Merits({step: 1.0 if step == winner else 0.5 for step in range(1, 5)})
        result = chosen_run(bigrunner, companions=[merits])
        result.assert_finished()
        assert next(e.facts["chosen"] for e in result.events if e.kind == "gram-teacher") == winner
        assert merits.asked == [(step, False) for step in range(1, 5)]
    bigrunner.run(companions=[merits]).assert_finished()  # nobody asks without gram-anchoring, and nobody minds


def test_one_candidate_without_labels_leaves_the_choice_to_the_other_scores(bigrunner: Runner) -> None:
    result = chosen_run(bigrunner, companions=[Merits({1: 0.9, 2: 0.8})])
    everyone = [e for e in result.events if e.kind == "gram-candidate"]
    label_free = best([candidate(e.step, e.facts["patch_cosine"], e.facts["rank"]) for e in everyone])
    assert next(e.facts["chosen"] for e in result.events if e.kind == "gram-teacher") == label_free.step


class Records:
    """Records a number in some steps, as whoever measures does; and answers the hook, which then nobody asks."""

    observer = True

    def __init__(self, values: dict[int, float], name: str = "probe/knn_accuracy") -> None:
        self.values = values
        self.name = name
        self.merits = Merits({})

    @hookimpl
    def after_step(self, run: Any, step: int) -> None:
        if step in self.values:
            run.metrics.record(self.name, self.values[step])

    @hookimpl(optionalhook=True)
    def dense_score(self, run: Any, backbone: torch.nn.Module) -> Any:
        return self.merits.dense_score(run, backbone)


BY_PROBE = {"choose_by": "probe/knn_accuracy"}


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_the_best_by_a_metric_that_is_recorded_in_the_same_step_is_chosen(bigrunner: Runner, every: int) -> None:
    """How often is logged makes no difference."""
    for winner in (2, 4):
        values = {step: 0.9 if step == winner else step / 10 for step in range(1, 7)}
        records = Records(values)
        result = chosen_run(bigrunner, config=BY_PROBE, companions=[records], run={"log_every_steps": every})
        result.assert_finished()
        assert next(e.facts["chosen"] for e in result.events if e.kind == "gram-teacher") == winner
        everyone = [e for e in result.events if e.kind == "gram-candidate"]
        assert [e.facts["dense_score"] for e in everyone] == [values[step] for step in range(1, 5)]
        assert records.merits.asked == []
        assert result.run is not None
        assert any("highest probe/knn_accuracy" in line for line in result.run.header)


@pytest.mark.parametrize("missing", [{}, {3: math.nan}])
def test_a_metric_that_is_missing_once_leaves_the_choice_to_the_other_scores(
    bigrunner: Runner, missing: dict[int, float]
) -> None:
    values = {step: step / 10 for step in (1, 2, 4)} | missing
    result = chosen_run(bigrunner, config=BY_PROBE, companions=[Records(values)])
    result.assert_finished()
    (warning,) = [e for e in result.events if e.kind == "gram-candidate" and e.level == "warning"]
    assert warning.step == 3
    assert warning.facts == {"metric": "probe/knn_accuracy"}
    everyone = [e for e in result.events if e.kind == "gram-candidate" and "rank" in e.facts]
    label_free = best([candidate(e.step, e.facts["patch_cosine"], e.facts["rank"]) for e in everyone])
    assert next(e.facts["chosen"] for e in result.events if e.kind == "gram-teacher") == label_free.step


@pytest.mark.parametrize("at_step", [2, 4])
def test_probes_choose_the_gram_teacher_and_a_resumed_run_chooses_alike(bigrunner: Runner, at_step: int) -> None:
    """Of two plugins the one that is named first would be asked last, so here the order is the worse one."""
    tables = {"probes": {"every_steps": 1}, "gram-anchoring": CHOSEN | {"choose_by": "probe/retrieval_top5"}}
    document = bigrunner.document(tables, steps=6, objective=WARM)
    straight = bigrunner._train(document, bigrunner.tmp_path / "straight", (), SyntheticImages())
    straight.assert_finished()
    everyone = [e for e in straight.events if e.kind == "gram-candidate"]
    recorded = [row["probe/retrieval_top5"] for row in straight.metrics[:4]]
    assert [e.facts["dense_score"] for e in everyone] == recorded
    resumed = bigrunner.resume(straight, at_step)
    resumed.assert_finished()
    assert resumed.losses == straight.losses
    assert state_at(resumed, 6) == state_at(straight, 6)


def test_scores_of_two_metrics_are_not_compared(bigrunner: Runner) -> None:
    """A run goes on with another one: 200 of the first is no better than 0.9 of the second."""
    first = chosen_run(bigrunner, steps=2, config=BY_PROBE, companions=[Records({1: 200.0, 2: 100.0})])
    assert {row["scored_by"] for row in state_at(first, 2)["candidates"]} == {"probe/knn_accuracy"}
    result = chosen_run(
        bigrunner, config={"choose_by": "probe/other"}, directory=first.directory,
        companions=[Records({3: 0.1, 4: 0.9}, name="probe/other")],
    )  # fmt: skip
    result.assert_finished()
    (warning,) = [e for e in result.events if e.kind == "gram-candidate" and e.level == "warning"]
    assert "were scored by probe/knn_accuracy, and not by probe/other" in warning.message
    everyone = [e for r in (first, result) for e in r.events if e.kind == "gram-candidate" and "rank" in e.facts]
    assert [e.step for e in everyone] == [1, 2, 3, 4]
    seen = comparable([Candidate(e.step, sha256=None, **e.facts) for e in everyone], "probe/other")
    assert [c.dense_score for c in seen] == [None, None, 0.1, 0.9]
    assert next(e.facts["chosen"] for e in result.events if e.kind == "gram-teacher") == best(seen).step
    again = chosen_run(bigrunner, steps=2, config=BY_PROBE, companions=[Records({1: 0.2, 2: 0.1})])
    same = chosen_run(bigrunner, config=BY_PROBE, directory=again.directory, companions=[Records({3: 0.1, 4: 0.9})])
    assert not [e for e in same.events if e.kind == "gram-candidate" and e.level == "warning"]


def test_a_candidate_of_a_checkpoint_that_did_not_say_what_scored_it_was_scored_by_the_hook() -> None:
    row = {"step": 4, "patch_cosine": 0.3, "rank": 9.0, "dense_score": 0.7, "sha256": None, "has_learned": True}
    (found,) = State.from_json({"candidates": [row]}).candidates
    assert comparable([found], None)[0].dense_score == 0.7
    assert comparable([found], "probe/knn_accuracy")[0].dense_score is None


def test_a_metric_chooses_among_candidates_only(bigrunner: Runner) -> None:
    result = chosen_run(bigrunner, config=BY_PROBE | {"candidates_every_steps": None, "snapshot_step": 2})
    assert isinstance(result.error, ConfigError)
    assert "choose_by" in str(result.error)


@pytest.mark.parametrize("answer", [math.nan, "good"])
def test_an_answer_that_is_no_number_ends_the_run(bigrunner: Runner, answer: Any) -> None:
    result = chosen_run(bigrunner, companions=[Merits({2: answer})])
    assert isinstance(result.error, PluginError)
    assert "dense_score was answered with" in str(result.error)


def test_a_full_disk_costs_the_candidate_and_not_the_run(bigrunner: Runner) -> None:
    class Full:
        @hookimpl
        def before_step(self, run: Any, step: int) -> None:
            shelf = run.path_for("gram-anchoring")
            if step == 2:
                (shelf / "candidates").rename(shelf / "away")
                (shelf / "candidates").write_text("no folder")
            elif step == 3:
                (shelf / "candidates").unlink()
                (shelf / "away").rename(shelf / "candidates")

    result = chosen_run(bigrunner, companions=[Full()], run={"checkpoint_every_steps": 100})
    result.assert_finished()
    assert [e.step for e in result.events if e.kind == "gram-candidate" and e.level == "warning"] == [2]
    assert any("no candidate of step 2" in text for text in messages(result, "gram-candidate"))


def test_a_branch_takes_the_candidates_along(bigrunner: Runner) -> None:
    old = chosen_run(bigrunner)
    source = old.directory / "checkpoints" / "step-00000003"
    before = sorted(folder(old).iterdir())
    document = bigrunner.document({"gram-anchoring": CHOSEN}, steps=6, objective=WARM)
    recorder = Recorder(SyntheticImages())
    run, _ = run_training(document, bigrunner.tmp_path / "branch", source=source, companions={"recorder": recorder})
    assert recorder.losses == old.losses[3:]
    chosen = [
        next(e.facts["chosen"] for e in events if e.kind == "gram-teacher") for events in (old.events, recorder.events)
    ]
    assert chosen[0] == chosen[1]
    assert {path.name for path in (run.directory / "gram-anchoring" / "candidates").iterdir()} == {
        p.name for p in before
    }
    assert sorted(folder(old).iterdir()) == before
