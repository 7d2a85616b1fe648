"""How long several processes talk, as bounds; and `bigrun plan --gpus` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from test_planner_cli import PRESET

from bigrun.cli import main
from bigrun.planner.communication import Collective, sent_bytes, traffic
from bigrun.planner.efficiency import Efficiency, ring_bytes_per_second
from bigrun.planner.gpus import find_gpu
from bigrun.planner.links import Links, links_for
from bigrun.planner.sharing import Sharing
from bigrun.planner.units import Unit, Units

BLOCK, HEAD = Unit(((64, 32), (64,))), Unit(((128, 16), (1, 1, 8)))
NETWORKS = Units(student=(BLOCK, BLOCK), teacher=(BLOCK, BLOCK), root=HEAD, root_learning=HEAD)
LINKS = Links(100.0, 40.0, "", "")


def fsdp(per_node: int, nodes: int = 1, **options: Any) -> Sharing:
    return Sharing(per_node, nodes, "fsdp", **options)


@given(st.floats(1e-6, 1e6), st.floats(0, 1e6))
def test_the_bounds_hold_whatever_overlaps(computing: float, sending: float) -> None:
    found = Efficiency(computing, sending)
    assert 0 < found.least <= found.most <= 1
    assert found.shortest_seconds <= found.longest_seconds <= 2 * found.shortest_seconds


@given(st.integers(2, 64), st.integers(1, 8))
def test_gathering_again_and_more_micro_batches_send_more(processes: int, accumulate: int) -> None:
    def sent(shard: Any, micro_batches: int) -> float:
        return sent_bytes(traffic(NETWORKS, fsdp(processes, shard=shard), micro_batches, 2, None))

    assert sent("grads", accumulate) < sent("full", accumulate) < sent("full", accumulate + 1)


def test_groups_within_nodes_leave_the_network_to_shards_of_gradients() -> None:
    found = {c.what: c for c in traffic(NETWORKS, fsdp(8, 4, groups=4), 1, 2, None)}
    within, between = found["gradients of blocks"], found["shards of gradients of blocks"]
    assert between.payload_bytes == within.payload_bytes / 8
    assert [ring_bytes_per_second(c, fsdp(8, 4, groups=4), LINKS) for c in (within, between)] == [100, 5]


@pytest.mark.parametrize(
    ("sharing", "members", "speed"),
    [
        (fsdp(8), 8, 100),
        (fsdp(8, 4), 32, 40),  # the one ring of all processes has the whole network of a node
        (fsdp(8, 4, groups=2), 16, 40),
        (fsdp(6, 2, groups=3), 4, 20),  # a node has parts of two groups
    ],
)
def test_a_ring_is_as_fast_as_its_slowest_link(sharing: Sharing, members: int, speed: float) -> None:
    assert ring_bytes_per_second(Collective("", "all-gather", 1, 1, members), sharing, LINKS) == speed


def test_what_is_stated_of_links_counts_and_what_is_assumed_is_said() -> None:
    known = links_for(find_gpu("H100"), network_gbit_per_second=3200)
    assert (known.node_bytes_per_second, known.network_bytes_per_second) == (450e9, 400e9)
    assert (known.node, known.network) == ("450 GB/s (nvlink4, nominal)", "3200 Gbit/s a node (stated)")
    assert "assumed" in links_for(None).node


@pytest.fixture
def preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_run.toml").write_text(PRESET)
    return "my_run.toml"


def plan(*words: str) -> Result:
    return CliRunner().invoke(main, ["plan", *words])


def test_more_gpus_need_less_memory_each_and_the_range_is_printed(preset: str) -> None:
    words = ("--gpus", "1,2,4", "--set", "parallel.strategy=fsdp", "--step-seconds", "2", "--json")
    words += ("--node-gb-per-second", "300")  # has no effect in the first column
    result = plan(preset, *words)
    assert result.exit_code == 0, result.output
    one, two, four = json.loads(result.stdout)
    assert [found["accumulate"] for found in (one, two, four)] == [4, 2, 1]
    for name in ("weights", "teacher", "optimizer"):
        sizes = [found["memory"]["by_category"][name] for found in (one, two, four)]
        assert sizes[0] > sizes[1] > sizes[2]
    assert one["cluster"]["sent_bytes"] == 0
    assert four["cluster"]["computing"]["seconds"] == 0.5
    assert 0 < four["cluster"]["efficiency"]["least"] < four["cluster"]["efficiency"]["most"] == 1


@pytest.mark.slow
def test_one_number_of_gpus_is_the_plan_of_each_process(preset: str) -> None:
    words = ("--gpus", "2", "--nodes", "2", "--gpu", "H100", "--set", "parallel.strategy=fsdp")
    lines = plan(preset, *words, "--set", "parallel.replicate=2").stdout.splitlines()
    text = "\n".join(lines)
    assert "on each of 4 processes (fsdp in 2 groups), which have shards of 1/2" in text
    assert "450 GB/s (nvlink4, nominal); 100 Gbit/s a node (ethernet-100, nominal, assumed)" in text
    assert "0.4 of the H100's peak of 989 TFLOP/s, an assumption" in text
    assert "if nothing overlaps to " in text
    assert "shards of gradients of blocks: all-reduce among 2" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpus", "0"], "--gpus 0: expected a number above zero"),
        (["--gpus", "two"], "--gpus two: expected a number above zero"),
        (["--gpus", "4,2,04"], "--gpus 4,2,04: 4 is there twice"),
        (["--measured", "my_run.toml"], "--measured my_run.toml: expected what `bigrun tune` leaves in its folder"),
        (["--gpus", "3"], "cannot be divided among 3 processes: take 1, 2 or 4 processes"),
        (["--gpus", "8"], "each has 2 images of a step; set data.micro_batch to a divisor of 2"),
        (["--gpus", "1,2,8"], "data.micro_batch = 4 x 8 processes"),
        (["--gpus", "1,2,3"], "cannot be divided among 3 processes"),
        (["--gpus", "1,2", "--nodes", "3"], "cannot be divided among 3 processes"),
        (
            ["--gpus", "1,4", "--set", "data.micro_batch=false", "--set", "objective.koleo_group=8"],
            "no micro-batch of them holds whole groups of objective.koleo_group = 8",
        ),
        (
            ["--gpus", "2", "--set", "parallel.strategy=single"],
            "parallel.strategy = 'single', but there are 2 processes",
        ),
        (
            ["--gpus", "4,2", "--set", "parallel.strategy=fsdp", "--set", "parallel.replicate=4"],
            "parallel.replicate = 4 does not divide 2 processes",
        ),
    ],
)
def test_what_the_run_would_refuse_is_refused_before_a_rehearsal(preset: str, words: list[str], message: str) -> None:
    result = plan(preset, *words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "rehearsing" not in result.stderr
    assert not result.stdout


USELESS = [
    ("--nodes 2", "--nodes has no effect without --gpus"),
    ("--mfu 0.3 --step-seconds 1", "--step-seconds has no effect without --gpus"),
    ("--gpus 4 --mfu 0.3", "--mfu has no effect without --gpu, "),
    ("--gpus 4 --mfu 0.3 --gpu Voodoo --device-memory 1GiB", "--mfu has no effect without --gpu, a listed one"),
    ("--gpus 4 --mfu 0.3 --gpu H100 --step-seconds 2", "--mfu has no effect beside --step-seconds"),
    ("--gpus 4 --mfu 0.3 --gpu H100 --tflops 50", "--mfu has no effect beside --tflops"),
    ("--gpus 4 --mfu 0.3 --gpu H100 --measured tuned.json", "--mfu has no effect beside the speed that was measured: "),
    ("--gpus 2 --node-link nvlink4 --node-gb-per-second 3", "--node-link has no effect beside --node-gb-per-second"),
    (
        "--gpus 2 --nodes 2 --network infiniband-400 --network-gbit-per-second 3",
        "--network has no effect beside --network-gbit-per-second",
    ),
    ("--gpus 1,2 --network infiniband-400", "--network has no effect with one node"),
    ("--gpus 2 --nodes 1 --network-gbit-per-second 100", "--network-gbit-per-second has no effect with one node"),
    ("--gpus 1 --node-link nvlink4", "--node-link has no effect with one GPU"),
    ("--gpus 1 --node-gb-per-second 3", "--node-gb-per-second has no effect with one GPU"),
    ("--gpus 1 --step-seconds 2", "--step-seconds has no effect with one GPU"),
    ("--gpus 1 --gpu H100 --mfu 0.3", "--mfu has no effect with one GPU"),
]  # fmt: skip


def tuned(speed: float) -> str:
    """What `bigrun tune` leaves."""
    device = {"name": "NVIDIA H100", "backend": "cuda"}
    return json.dumps({"trials": [], "images_per_second": speed, "flops_per_image": 1e9, "device": device})


@pytest.mark.parametrize(("words", "message"), USELESS)
def test_an_option_without_effect_beside_the_others_is_refused(preset: str, words: str, message: str) -> None:
    Path("tuned.json").write_text(tuned(100.0))
    result = plan(preset, *words.split())
    assert result.exit_code == 2
    assert f"error: {message}" in result.stderr
    assert "rehearsing" not in result.stderr
    assert not result.stdout


def test_an_option_with_an_effect_somewhere_is_taken(preset: str) -> None:
    """One GPU on each of two nodes sends by its own link, too; and `bigrun doctor` measures no training, of which the
    share of the peak says more."""
    row = {"facts": {"device": {"name": "NVIDIA H100"}, "measured": 600.0}}
    rows = [{"name": "device", **row}, {"name": "bf16 speed", **row}]
    Path("doctor.json").write_text(json.dumps({"rows": rows}))
    words = "--gpus 1 --nodes 2 --node-gb-per-second 1 --network infiniband-400 --gpu H100 --mfu 0.3"
    result = plan(preset, *words.split(), "--measured", "doctor.json", "--device-memory", "1TiB", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["cluster"]
    assert found["communication_seconds"] == pytest.approx(found["sent_bytes"] / 1e9)
    assert found["computing"]["source"].startswith("0.3 of the H100's peak")
