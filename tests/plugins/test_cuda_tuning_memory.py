"""cuda-tuning: the closed form of a step's memory against what is really kept, and the values chosen by it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bigrun.config import Config, build_config, read_preset
from bigrun.devices import DeviceFacts
from bigrun.model import attention
from bigrun.model.block import Block
from bigrun.model.groups import Group
from bigrun.model.initialise import initialise
from bigrun.model.vit import VisionTransformer
from bigrun.objective.network import DinoNetwork
from bigrun.planner.closed_form import ENDS, StepMemory, block_bytes, kept_bytes, parameters_of, tokens_of
from bigrun.rules import cross_problems
from bigrun.sections import Model
from bigrun.testing.devices import DEVICES, device
from bigrun_cuda.defaults import (
    ENOUGH_TOKENS,
    GIB,
    MOST_TOKENS,
    choose_defaults,
    device_bytes,
    sizes_of,
    usable_bytes,
)

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "tune-for-nvidia.md"
NVIDIA = [name for name, facts in DEVICES.items() if facts.backend == "cuda"]
CARDS = {"24 GB": "rtx4090", "32 GB": "rtx5090", "80 GB": "h100", "141 GB": "h200"}
NETWORKS = {"ViT-S": "vit_small", "ViT-B": "vit_base", "ViT-L": "vit_large", "ViT-g": "vit_giant"}
PRESETS = {"vit_small": "vit_small", "vit_base": "vit_small", "vit_large": "vit_large", "vit_giant": "vit_giant"}


def config_of(architecture: str, *sets: str, open_values: bool = True) -> Config:
    """A shipped preset with this network, without plugins; the micro-batch is open."""
    sets = ("data.path='images'", f"model.architecture='{architecture}'", *sets)
    document = read_preset(PRESETS.get(architecture, "vit_small"), sets)
    tables = {name: dict(table) for name, table in document.tables.items() if name != "plugins"}
    if open_values:
        for name in ("micro_batch", "workers"):
            tables["data"].pop(name, None)
    return build_config(attrs.evolve(document, tables=tables), {}, [])


# -- the closed form --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("h", [2, 4], ids=["bf16", "fp32"])
@pytest.mark.parametrize("drop", [0.0, 0.25])
@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
@pytest.mark.parametrize(("layerscale", "norm"), [(0.1, "layernorm"), (None, "layernorm"), (0.1, "rmsnorm")])
def test_a_block_keeps_what_the_form_says(
    monkeypatch: pytest.MonkeyPatch, ffn: Any, drop: float, layerscale: float | None, norm: Any, h: int
) -> None:
    """Every tensor that autograd saves, each storage once; of 8000 tokens, beside which the weights are small."""
    monkeypatch.setattr(attention, "PRODUCT_TOKENS", 0)  # attention as on a GPU
    model = Model(width=64, heads=2, ffn=ffn, ffn_hidden=160, drop_path_fraction=drop, layerscale=layerscale, norm=norm)
    block = Block(model).train()
    initialise(block)
    crops, tokens = 40, 200
    x = torch.randn(crops * tokens, 64, requires_grad=True) * 1
    table = [(torch.zeros(tokens, 32), torch.ones(tokens, 32))]
    saved: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.nbytes() >= crops * tokens * 8:  # no weights, no indices
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=h == 2),
    ):
        counts = [round(crops * (1 - drop))] if drop else None
        assert block(x, [Group(crops, tokens)], table, counts).requires_grad
    kept = crops * tokens * (1 - drop)
    assert sum(saved.values()) == pytest.approx(kept * block_bytes(model, h), rel=0.01)


@pytest.mark.parametrize("drop", [0.0, 0.25])
@pytest.mark.parametrize("mode", ["none", "selective", "full"])
def test_a_network_keeps_what_the_form_says(mode: Any, drop: float) -> None:
    """What a forward pass leaves allocated, for 8 crops more: by how much it grows."""
    model = Model(width=64, depth=4, heads=2, ffn_hidden=256, drop_path_fraction=drop)
    network = VisionTransformer(model).train()
    network.checkpoint_activations(mode)

    def held(crops: int) -> int:
        images = torch.randn(crops, 3, 224, 224)
        network(images)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            features = network(images)
        assert features.cls.requires_grad
        return sum(event.self_cpu_memory_usage for event in profile.events())

    grown = (held(12) - held(4)) / (8 * 201)
    pixels = 4 * 3 * 224**2 / 201
    assert grown == pytest.approx(4 * kept_bytes(model, mode, 4) + ENDS * 64 + pixels, rel=0.08)


@pytest.mark.parametrize("architecture", ["vit_tiny", "vit_small", "vit_base", "vit_large", "vit_giant", "vit_7b"])
def test_parameters_are_those_of_the_network(architecture: str) -> None:
    config = config_of(architecture)
    with torch.device("meta"):
        network = DinoNetwork(config.model, config.objective)
    assert parameters_of(config) == pytest.approx(sum(p.numel() for p in network.parameters()), rel=0.01)


def test_tokens_are_those_of_the_largest_crops() -> None:
    assert tokens_of(config_of("vit_small")) == 2 * (196 + 5) + 8 * (36 + 5)
    assert tokens_of(config_of("vit_small", "views.local_crops=0")) == 2 * 201
    mixed = config_of("vit_small")
    mixed = attrs.evolve(mixed, views=attrs.evolve(mixed.views, sizes_px=((256, 112), (512, 112))))
    assert tokens_of(mixed) == 2 * (1024 + 5) + 8 * (49 + 5)


@pytest.mark.parametrize(
    ("architecture", "micro_batch", "mode", "mib"),
    [
        ("vit_small", 64, "none", 11153),
        ("vit_small", 16, "full", 1095),
        ("vit_large", 16, "none", 15972),
        ("vit_large", 16, "selective", 10530),
        ("vit_large", 16, "full", 6790),
        ("vit_giant", 8, "none", 32080),
        ("vit_giant", 8, "selective", 25717),
        ("vit_giant", 8, "full", 22414),
    ],
)
def test_peaks_of_whole_steps_recorded(architecture: str, micro_batch: int, mode: Any, mib: int) -> None:
    """Beside fake runs of two steps of the engine, with attention and chunks of logits as on a GPU."""
    batch = f"data.effective_batch={micro_batch}"
    config = config_of(architecture, batch, "objective.koleo_group=8")
    error = StepMemory(config).peak_bytes(micro_batch, mode) / (mib * 2**20) - 1
    assert -0.02 <= error <= 0.07


def test_the_peak_with_many_prototypes_recorded() -> None:
    """With the crops of one micro-batch, as it was recorded; as many prototypes make sense for large batches only."""
    sets = ("data.effective_batch=2048", "objective.prototypes=65536", "objective.ibot_prototypes=65536")
    config = config_of("vit_small", *sets)
    config = attrs.evolve(config, data=attrs.evolve(config.data, effective_batch=16))
    error = StepMemory(config).peak_bytes(16, "none") / (4711 * 2**20) - 1
    assert -0.02 <= error <= 0.07


@settings(deadline=None, max_examples=50)
@given(micro_batch=st.integers(16, 128), more=st.integers(1, 64), architecture=st.sampled_from(sorted(PRESETS)))
def test_more_images_need_more_and_checkpointing_less(micro_batch: int, more: int, architecture: str) -> None:
    memory = StepMemory(CONFIGS[architecture])
    plain, selective, full = (memory.peak_bytes(micro_batch, mode) for mode in ("none", "selective", "full"))
    assert full < selective < plain < memory.peak_bytes(micro_batch + more, "none")
    assert StepMemory(CONFIGS[architecture], 1).peak_bytes(micro_batch, "none") > plain


CONFIGS = {name: config_of(name) for name in PRESETS}


# -- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", PRESETS)
@pytest.mark.parametrize("name", NVIDIA)
def test_what_is_chosen_fits_and_leaves_the_objective_as_it_is(name: str, architecture: str) -> None:
    facts, config = device(name), CONFIGS[architecture]
    chosen = choose_defaults(facts, config)
    resolved = taken(config, chosen)
    micro, mode = resolved.data.micro_batch, resolved.hardware.activation_checkpointing
    assert micro is not None
    assert config.data.effective_batch % micro == 0
    assert resolved.objective.koleo_group == config.objective.koleo_group == 16
    limit, memory = usable_bytes(facts), StepMemory(config)
    if chosen["data.micro_batch"][1].startswith("does not fit"):
        assert (micro, mode) == (16, "full")
        assert device_bytes(memory, 16, "full") > limit
        return
    assert device_bytes(memory, micro, mode) <= limit
    larger = [size for size in sizes_of(config, 1) if size > micro and size * tokens_of(config) <= MOST_TOKENS]
    assert all(device_bytes(memory, size, mode) > limit for size in larger[:1])
    if mode != "none":  # without it too little fits
        assert device_bytes(memory, 16, "none") > limit
        assert 16 * tokens_of(config) >= ENOUGH_TOKENS


def taken(config: Config, chosen: dict[str, tuple[Any, str]]) -> Config:
    for path, (value, why) in chosen.items():
        assert why
        table, name = path.split(".")
        config = attrs.evolve(config, **{table: attrs.evolve(getattr(config, table), **{name: value})})
    assert list(cross_problems(config)) == []
    return config


def test_what_the_user_has_set_decides_about_the_rest() -> None:
    facts = device("rtx4090")
    by_hand = config_of("vit_large", "data.micro_batch=64", open_values=False)
    chosen = choose_defaults(facts, by_hand)
    assert (chosen["data.micro_batch"][0], chosen["hardware.activation_checkpointing"][0]) == (64, "full")
    never = config_of("vit_large", "hardware.activation_checkpointing='none'")
    assert choose_defaults(facts, never)["hardware.activation_checkpointing"][0] == "none"
    always = config_of("vit_large", "hardware.activation_checkpointing='full'")
    assert choose_defaults(facts, always)["data.micro_batch"][0] > 16


def test_what_is_too_large_is_said() -> None:
    chosen = choose_defaults(device("rtx4090"), CONFIGS["vit_giant"])
    value, why = chosen["data.micro_batch"]
    assert value == 16
    assert re.fullmatch(r"does not fit: \d+\.\d GiB expected, \d+\.\d GiB there", why)


def test_networks_of_plugins_count() -> None:
    more = StepMemory(CONFIGS["vit_large"], 1).static_bytes - StepMemory(CONFIGS["vit_large"]).static_bytes
    assert more == pytest.approx(4 * 303e6, rel=0.01)
    config = config_of("vit_large", "hardware.activation_checkpointing='full'")
    alone, beside = (choose_defaults(device("rtx4090"), config, frozen)["data.micro_batch"][0] for frozen in (0, 12))
    assert beside < alone


def test_what_others_take_is_told_but_does_not_change_the_numbers_of_a_run() -> None:
    facts, config = device("rtx4090"), CONFIGS["vit_large"]
    busy = attrs.evolve(facts, free_bytes=facts.total_bytes // 2)
    alone, beside = choose_defaults(facts, config), choose_defaults(busy, config)
    assert {path: value for path, (value, _) in alone.items()} == {path: value for path, (value, _) in beside.items()}
    assert "only 11.8 GiB are free now" in beside["data.micro_batch"][1]
    assert "free now" not in alone["data.micro_batch"][1]


@pytest.mark.parametrize(
    ("name", "changes", "workers", "prefetch"),
    [("rtx4090", {}, 8, 4), ("rtx3090", {}, 8, 4), ("h200", {}, 16, 4), ("a100", {"usable_cores": 4}, 2, 4),
     ("rtx4090", {"usable_cores": 1}, 1, 4), ("rtx4090", {"ram_total_bytes": 32 * GIB}, 8, 2)],
)  # fmt: skip
def test_processes_that_decode(name: str, changes: dict[str, int], workers: int, prefetch: int) -> None:
    facts = changed(device(name), **changes)
    chosen = choose_defaults(facts, CONFIGS["vit_small"])
    assert (chosen["data.workers"][0], chosen["data.prefetch"][0]) == (workers, prefetch)
    assert chosen["hardware.pin_memory"][0] is True


def changed(facts: DeviceFacts, usable_cores: int | None = None, ram_total_bytes: int | None = None) -> DeviceFacts:
    host = facts.host
    cpu = attrs.evolve(host.cpu, usable_cores=usable_cores or host.cpu.usable_cores)
    return attrs.evolve(
        facts, host=attrs.evolve(host, cpu=cpu, ram_total_bytes=ram_total_bytes or host.ram_total_bytes)
    )


def test_of_another_objective_nothing_is_known() -> None:
    config = attrs.evolve(CONFIGS["vit_small"], replaced={"objective": "mine"})
    assert sorted(choose_defaults(device("h200"), config)) == ["data.prefetch", "data.workers", "hardware.pin_memory"]


# -- the page ---------------------------------------------------------------------------------------------------------


def cell(card: str, architecture: str) -> str:
    """`64, selective, 17.3 GiB`: micro-batch, activation checkpointing, expected memory of the device."""
    config, facts = CONFIGS[architecture], device(CARDS[card])
    chosen = choose_defaults(facts, config)
    micro, mode = chosen["data.micro_batch"][0], chosen["hardware.activation_checkpointing"][0]
    if chosen["data.micro_batch"][1].startswith("does not fit"):
        return "does not fit"
    return f"{micro}, {mode}, {device_bytes(StepMemory(config), micro, mode) / GIB:.1f} GiB"


def table() -> list[str]:
    rows = [["", *NETWORKS], ["---"] * (1 + len(NETWORKS))]
    rows += [[card, *(cell(card, architecture) for architecture in NETWORKS.values())] for card in CARDS]
    return ["| " + " | ".join(row).lstrip() + " |" for row in rows]


def test_the_table_of_the_page_is_what_is_chosen() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert "\n".join(table()) in text
