"""What a run keeps outside of the device: host memory, and checkpoints on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest

from bigrun import hookimpl
from bigrun.config import Document
from bigrun.planner.host_memory import COPY, IMAGES, PROCESS, PROCESS_BYTES, WORKER_BYTES, WORKERS, HostMemory
from bigrun.planner.images import mean_bytes
from bigrun.planner.memory import ACTIVATIONS, TEACHER
from bigrun.planner.plan import Fit, Plan
from bigrun.planner.predict import predict
from bigrun.planner.rehearsal import rehearse
from bigrun.planner.rehearsals import Rehearsals
from bigrun.planner.report import lines
from bigrun.planner.savings import Saving
from bigrun.planner.verdict import verdicts
from bigrun.session import run_training
from bigrun.state import gather_state
from bigrun.testing.devices import device
from bigrun.testing.runner import Runner, SyntheticImages

GIB = 2**30
GRAM = {"snapshot_step": 1, "start_step": 2, "ramp_steps": 1}
HALF = {"memory-savers": {"optimizer_states": "bf16"}}


def document(plugins: dict[str, Any] | None = None, **tables: Any) -> Document:
    model = {"width": 64, "ffn_hidden": 256}
    hardware = {"device": "cpu", "precision": "bf16", "threads": 1}
    return Runner(Path()).document(plugins or {}, model=model, hardware=hardware, **tables)


# -- the disk -------------------------------------------------------------------------------------------------


class Images:
    """Synthetic ones."""

    @hookimpl(tryfirst=True)
    def build_dataset(self) -> Any:
        return SyntheticImages()


@pytest.mark.parametrize(
    "plugins",
    [
        {},
        HALF,
        {"memory-savers": {"optimizer_states": "8bit"}},
        {"gram-anchoring": GRAM},
        {"gram-anchoring": GRAM | {"teacher_dtype": "bf16"}} | HALF,
        {"gram-anchoring": {"mode": "ema", "start_step": 2, "ramp_steps": 1}},
    ],
    ids=[
        "plain",
        "states in bf16",
        "states in 8 bits",
        "Gram teacher",
        "both in bf16",
        "a Gram teacher without storage",
    ],
)
def test_a_checkpoint_is_as_large_as_the_plan_says(tmp_path: Path, plugins: dict[str, Any]) -> None:
    """To the byte, tensors in their own types: at the end of the run, when everything has begun."""
    if "8bit" in str(plugins):
        pytest.importorskip("torchao")
    planned = rehearse(document(plugins), "cpu").checkpoint_bytes
    run, _ = run_training(document(plugins), tmp_path / "run", companions={"images": Images()})
    assert run.finished
    assert gather_state(run).bytes == planned
    if plugins.get("gram-anchoring", {}).get("mode") != "ema":  # there the run keeps room for one that may come
        assert run.room is not None
        assert run.room.checkpoint_bytes == pytest.approx(planned, rel=0.002), "what the run says at its start"


# -- host memory ----------------------------------------------------------------------------------------------


def test_each_part_is_counted() -> None:
    data = {"workers": 3, "prefetch": 2, "effective_batch": 8, "micro_batch": 4}
    run = {"background_checkpoints": True}
    found = predict(document(data=data, run=run), image_bytes=1000)
    assert dict(found.host.by_category) == {
        PROCESS: PROCESS_BYTES["cuda"],
        WORKERS: 3 * WORKER_BYTES,
        IMAGES: 1000 * (8 + 3 * 2 * 4),
        COPY: found.checkpoint_bytes,
    }
    assert found.host.bytes == sum(found.host.by_category.values())
    assert predict(document(data=data)).host.by_category[COPY] == 0  # background_checkpoints = false


def test_what_is_moved_to_the_host_is_on_the_device_no_more() -> None:
    gpu = device("rtx4090")
    options = {"teacher_offload": True, "activation_offload": True}
    plain = rehearse(document(), "cuda", gpu)
    moved = rehearse(document({"memory-savers": options}), "cuda", gpu)
    assert moved.refused == {}
    assert plain.moved == {}
    backbone = 4 * plain.parameters["backbone"]
    assert moved.moved[TEACHER] == pytest.approx(backbone, rel=0.02)  # in multiples of 512
    assert moved.moved[ACTIVATIONS] > 0.4 * plain.memory.by_category[ACTIVATIONS]
    assert moved.memory.peak_bytes < plain.memory.peak_bytes - 0.8 * backbone - 0.5 * moved.moved[ACTIVATIONS]
    assert moved.checkpoint_bytes == plain.checkpoint_bytes


@pytest.mark.parametrize("facts", [None, device("gfx1151-b")], ids=["a CPU", "a GPU with the host's memory"])
def test_where_both_share_their_memory_nothing_is_moved(facts: Any) -> None:
    options = {"teacher_offload": True, "activation_offload": True}
    found = rehearse(document({"memory-savers": options}), "cuda", facts)
    assert found.moved == {}


def test_on_unified_memory_both_are_one_budget() -> None:
    plan = predict(document(run={"background_checkpoints": True}), device="rocm", gpu="8060S")
    assert plan.is_unified
    assert plan.taken_bytes == plan.need_bytes + plan.host.bytes
    assert attrs.evolve(plan, device_memory_bytes=plan.taken_bytes).fits_as_it_is
    assert not attrs.evolve(plan, device_memory_bytes=plan.taken_bytes - 1).fits_as_it_is
    apart = attrs.evolve(plan, is_unified=False, device_memory_bytes=plan.need_bytes)
    assert apart.fits_as_it_is
    assert not any(line.startswith("host memory") for line in verdicts(plan))


@pytest.mark.slow
def test_the_largest_micro_batch_leaves_room_for_the_host_where_it_shares_the_memory() -> None:
    rehearsals = Rehearsals(document(data={"effective_batch": 4, "micro_batch": 4}), "cpu", lambda line: None)
    host = sum(rehearsals.host_bytes(rehearsals.own()).values())
    whole = rehearsals.need_bytes("none", 4) + host
    assert host > 0
    assert rehearsals.fit("none", whole) == Fit("none", 4, 1, whole)
    assert rehearsals.fit("none", whole - 1).micro_batch == 2


@pytest.fixture(scope="module")
def plan() -> Plan:
    return predict(document(run={"background_checkpoints": True}), ram_bytes=64 * GIB)


def with_host(plan: Plan, ram_bytes: int, *, here: bool = False) -> Plan:
    return attrs.evolve(plan, host=HostMemory({PROCESS: 3 * GIB, COPY: 20 * GIB}, ram_bytes, here, None))


def test_verdicts_on_the_machines_memory_are_plain(plan: Plan) -> None:
    def said(ram_gib: int, *, here: bool = False) -> str:
        return verdicts(with_host(plan, ram_gib * GIB, here=here))[-1]

    assert said(64) == "host memory: 23.0 GiB, which fits in the machine's 64.0 GiB"
    assert said(23, here=True) == "host memory: 23.0 GiB, which fits in this machine's (see --ram) 23.0 GiB"
    assert said(16).endswith(
        "does not fit in the machine's 16.0 GiB; --set run.background_checkpoints=false takes 20.0 GiB less"
    )
    assert said(2).endswith("takes 20.0 GiB less, which is not enough: fewer workers, smaller prefetch")


def test_where_no_device_memory_was_said_the_machines_own_is_what_a_cpu_has() -> None:
    found = predict(document(), device="cpu")
    (said,) = verdicts(found)
    assert "of them for what is beside the tensors, which fits in this machine's (see --ram)" in said
    tight = attrs.evolve(found, host=attrs.evolve(found.host, ram_bytes=found.taken_bytes - 1))
    assert "does not fit in" in verdicts(tight)[0]


def test_an_assumption_is_said_to_be_one(plan: Plan) -> None:
    assert any("images of 3.15 MB, an assumption" in line for line in lines(plan))
    known = attrs.evolve(plan, host=attrs.evolve(plan.host, image_bytes=750_000))
    assert any("images of 750 kB, as a few of them are" in line for line in lines(known))


def test_a_few_images_are_looked_at() -> None:
    class Some(SyntheticImages):
        asked: list[int] = []  # noqa: RUF012

        def __getitem__(self, index: int) -> Any:
            self.asked.append(index)
            if index == 0:
                raise ValueError("no image")
            return super().__getitem__(index)

    images = Some(1000, 40)
    assert mean_bytes(images) == 3 * 40 * 40
    assert len(images.asked) == 5
    assert max(images.asked) >= 800
    assert mean_bytes(SyntheticImages(0)) is None


# -- what could be spared -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_savings_are_those_that_are_not_made_yet() -> None:
    wide: dict[str, Any] = {"model": {"width": 256, "ffn_hidden": 1024, "heads": 4}}
    plain = rehearse(Runner(Path()).document({"gram-anchoring": GRAM}, **wide), "cuda", device("rtx4090"))
    found = {saving.what: saving.bytes for saving in plain.savings}
    trained, backbone = sum(plain.parameters.values()) // 2, plain.parameters["backbone"]
    assert found["states of the optimizer in bf16"] == pytest.approx(4 * trained, rel=0.01)
    assert found["states of the optimizer in 8 bits"] == pytest.approx(5.97 * trained, rel=0.01)
    assert found["the teacher in host memory"] == pytest.approx(4 * backbone, rel=0.01)
    assert found["frozen networks in bf16"] == pytest.approx(2 * backbone, rel=0.01)
    savers = {"optimizer_states": "bf16", "teacher_offload": True}
    half = {"gram-anchoring": GRAM | {"teacher_dtype": "bf16"}, "memory-savers": savers}
    less = rehearse(Runner(Path()).document(half, **wide), "cuda", device("rtx4090"))
    assert [saving.what for saving in less.savings] == ["states of the optimizer in 8 bits"]


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_they_are_named_where_nothing_fits_without_activation_checkpointing(
    plan: Plan, micro_batch: int | None
) -> None:
    fits = (Fit("none", micro_batch, micro_batch, 1), Fit("full", 4, 1, 1))
    savings = (Saving("states of the optimizer in bf16", 4 * GIB), Saving("the teacher in host memory", 3 * GIB))
    tight = attrs.evolve(plan, device_memory_bytes=plan.need_bytes - 1, fits=fits, savings=savings)
    text = "whatever the micro-batch is: states of the optimizer in bf16 4.00 GiB less, the teacher in host memory 3"
    assert any(said.startswith(text) for said in verdicts(tight)) is (micro_batch is None)
