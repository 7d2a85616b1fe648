"""What a run keeps outside of the device: host memory, and checkpoints on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigrun import hookimpl
from bigrun.config import Document
from bigrun.planner.host_memory import (
    COPY,
    IMAGES,
    NETWORKS,
    PROCESS,
    PROCESS_BYTES,
    WORKER_BYTES,
    WORKERS,
    HostMemory,
    pinned_bytes,
)
from bigrun.planner.images import mean_bytes
from bigrun.planner.memory import ACTIVATIONS, TEACHER
from bigrun.planner.plan import Fit, Plan
from bigrun.planner.predict import predict
from bigrun.planner.rehearsal import rehearse
from bigrun.planner.rehearsals import Rehearsals
from bigrun.planner.report import lines
from bigrun.planner.room import Room
from bigrun.planner.savings import Saving
from bigrun.planner.sharing import Sharing
from bigrun.planner.verdict import verdicts
from bigrun.session import run_training
from bigrun.state import gather_state
from bigrun.testing.devices import device
from bigrun.testing.runner import Runner, SyntheticImages
from bigrun.tuner.child import find_largest

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
        pytest.param(HALF, marks=pytest.mark.slow),
        pytest.param({"memory-savers": {"optimizer_states": "8bit"}}, marks=pytest.mark.slow),
        pytest.param({"gram-anchoring": GRAM}, marks=pytest.mark.slow),
        {"gram-anchoring": GRAM | {"teacher_dtype": "bf16"}} | HALF,
        pytest.param({"gram-anchoring": {"mode": "ema", "start_step": 2, "ramp_steps": 1}}, marks=pytest.mark.slow),
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
    found = rehearse(document(plugins), "cpu")
    planned = found.checkpoint_bytes
    assert found.copy_bytes == planned
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
        COPY: rehearse(document(), "cuda").copy_bytes,
    }
    assert found.host.bytes == sum(found.host.by_category.values())
    assert predict(document(data=data)).host.by_category[COPY] == 0  # background_checkpoints = false


class Built:
    """How large the networks are when they are built."""

    @hookimpl
    def configure_model(self, objective: Any) -> None:
        self.bytes = sum(tensor.nbytes for tensor in (*objective.parameters(), *objective.buffers()))


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_each_process_builds_whole_networks_in_the_memory_of_its_machine(tmp_path: Path, strategy: str) -> None:
    """They are gone when copies of the state and images come: only what is beyond those counts."""
    few = {"data": {"workers": 0, "effective_batch": 8, "micro_batch": 1}, "parallel": {"strategy": strategy}}
    copies = {"run": {"background_checkpoints": True}}
    run_training(document(**few), tmp_path / "run", companions={"images": Images(), "built": (built := Built())})
    eight = Sharing(per_node=8)
    host = predict(document(**few), device="cuda", image_bytes=1, sharing=eight).host.by_category
    assert host[NETWORKS] == 8 * built.bytes - host[IMAGES]
    host = predict(document(**few | copies), device="cuda", image_bytes=1, sharing=eight).host.by_category
    assert host[NETWORKS] == 8 * built.bytes - host[IMAGES] - host[COPY]
    host = predict(document(**few), device="cuda", image_bytes=built.bytes, sharing=eight).host.by_category
    assert NETWORKS not in host


@given(st.integers(1, 2**40))
def test_page_locked_memory_is_given_out_in_powers_of_two(size: int) -> None:
    assert size <= pinned_bytes(size) < 2 * size
    assert pinned_bytes(size).bit_count() == 1
    assert pinned_bytes(pinned_bytes(size)) == pinned_bytes(size)


def test_from_a_gpu_each_tensor_of_the_state_is_copied_into_such_memory(tmp_path: Path) -> None:
    run, _ = run_training(document(HALF), tmp_path / "run", companions={"images": Images()})
    tensors = [tensor for group in gather_state(run).tensors.values() for tensor in group.values()]
    planned = rehearse(document(HALF), "cuda")
    assert planned.copy_bytes == sum(pinned_bytes(tensor.nbytes) for tensor in tensors)
    assert planned.checkpoint_bytes == sum(tensor.nbytes for tensor in tensors)


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("device_gib", "ram_gib", "need_gib", "host_gib", "excess_gib"),
    [
        (62, 125, 43, 30, -19),
        (62, 125, 63, 30, 1),
        (62, 125, 62, 64, 1),
        (120, 125, 110, 20, 5),
        (96, 32, 90, 6, 0),
        (96, 32, 60, 33, 1),
    ],
    ids=[
        "half is the GPU's, the rest the host's",
        "more than the GPU has",
        "more than both have",
        "the GPU may have nearly all",
        "set aside by firmware",
        "more than firmware leaves",
    ],
)
def test_a_gpu_that_shares_the_memory_has_a_part_of_it_and_the_host_the_rest(
    device_gib: int, ram_gib: int, need_gib: int, host_gib: int, excess_gib: int
) -> None:
    room = Room("rocm", device_gib * GIB, ram_gib * GIB, is_unified=True)
    assert room.excess_bytes(need_gib * GIB, host_gib * GIB) == excess_gib * GIB


def test_on_a_cpu_both_are_one_budget_and_apart_each_has_its_own() -> None:
    assert Room("cpu", 10, 100, is_unified=True).excess_bytes(7, 4) == 1
    assert Room("cuda", 10, 100, is_unified=False).excess_bytes(10, 400) == 0


def test_where_the_gpu_shares_the_memory_the_hosts_part_need_not_be_the_gpus() -> None:
    plan = predict(document(run={"background_checkpoints": True}), device="rocm", gpu="8060S", ram_bytes=125 * GIB)
    assert plan.is_unified
    assert plan.taken_bytes == plan.need_bytes
    shared = attrs.evolve(plan, device_memory_bytes=plan.need_bytes)
    assert shared.fits_as_it_is
    assert not attrs.evolve(plan, device_memory_bytes=plan.need_bytes - 1).fits_as_it_is
    tight = attrs.evolve(shared, host=attrs.evolve(plan.host, ram_bytes=plan.need_bytes + plan.host.bytes))
    assert tight.fits_as_it_is
    assert not attrs.evolve(tight, host=attrs.evolve(tight.host, ram_bytes=tight.host.ram_bytes - 1)).fits_as_it_is
    assert not any(line.startswith("host memory") for line in verdicts(plan))
    assert "shared with the machine's 125.0 GiB: it needs " in verdicts(shared)[0]
    assert "and the host " in verdicts(shared)[0]


@pytest.mark.slow
def test_the_largest_micro_batch_leaves_room_for_the_host_where_it_shares_the_memory() -> None:
    rehearsals = Rehearsals(document(data={"effective_batch": 4, "micro_batch": 4}), "cpu", lambda line: None)
    host = sum(rehearsals.host_bytes(rehearsals.own()).values())
    whole = rehearsals.need_bytes("none", 4) + host
    assert host > 0
    assert rehearsals.fit("none", whole, 0) == Fit("none", 4, 1, whole)
    assert rehearsals.fit("none", whole - 1, 0).micro_batch == 2


@pytest.mark.slow
def test_so_it_is_sought_on_a_gpu_that_shares_the_machines_memory() -> None:
    gpu = device("gfx1151-b")
    rehearsals = Rehearsals(document(data={"effective_batch": 4, "micro_batch": 4}), "rocm", lambda line: None, gpu)
    host = sum(rehearsals.host_bytes(rehearsals.own()).values())
    need = rehearsals.need_bytes("none", 4)
    assert rehearsals.fit("none", need, need + host) == Fit("none", 4, 1, need)
    assert rehearsals.fit("none", need - 1, need + host).micro_batch == 2
    assert rehearsals.fit("none", need, need + host - 1).micro_batch == 2
    found = {"source": "test", "name": "test", "tables": document(data={"effective_batch": 4, "micro_batch": 4}).tables}
    tight = attrs.evolve(gpu, total_bytes=need, host=attrs.evolve(gpu.host, ram_total_bytes=need + host))
    assert find_largest(found, tight.as_facts(), "none", [1, 2, 4], lambda *said: None) == {"largest": 4}, "of a tuner"


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
