"""What a run has written down of its options, and a command that reads the run with others."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
import warm
from training import Training

from bigrun.config import Document, build_config, read_written
from bigrun.errors import ConfigError, ExitCode
from bigrun.options import option


@attrs.frozen
class Spiky:
    """Options of a plugin."""

    weight: float = option(1.0, help="Of the spikes.")
    height: float = option(2.0, effective=lambda c: c.weight > 0, otherwise="weight = 0", help="Of the spikes.")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Training:
    """A run whose configuration is for shards."""
    training = Training(tmp_path_factory.mktemp("sharded"), parallel={"strategy": "fsdp", "shard": "grads"})
    done = training()
    assert done.returncode == ExitCode.FINISHED, done.stderr
    return training


@pytest.mark.parametrize(
    "words",
    [
        ["eval", "runs/tiny", "--probe", "retrieval"],
        pytest.param(["monitor", "runs/tiny", "--plugin", "attention-maps"], marks=pytest.mark.slow),
        pytest.param(["replay", "runs/tiny", "--step", "6"], marks=pytest.mark.slow),
    ],
    ids=lambda words: words[0],
)
@pytest.mark.parametrize("strategy", ["ddp", pytest.param("single", marks=pytest.mark.slow)])
def test_a_sharded_run_is_read_as_one_of_another_strategy(sharded: Training, words: list[str], strategy: str) -> None:
    done = warm.bigrun(sharded.folder, *words, "--set", f"parallel.strategy={strategy}")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def test_what_is_set_beside_it_and_has_no_effect_is_refused(sharded: Training) -> None:
    words = ["eval", "runs/tiny", "--set", "parallel.strategy=ddp", "--set", "parallel.shard=grads"]
    done = warm.bigrun(sharded.folder, *words)
    assert done.returncode == ExitCode.USAGE
    assert "1 problem\n  parallel.shard: has no effect because parallel.strategy is not 'fsdp'" in done.stderr


@pytest.mark.parametrize(
    "change", ["data.workers=0", "hardware.precision=fp32", "objective.ibot_weight=0", "run.max_steps=false"]
)
def test_every_option_may_lose_its_effect(tmp_path: Path, change: str) -> None:
    tables = {
        "run": {"max_steps": 5000},
        "data": {"path": "x", "effective_batch": 64, "micro_batch": 16, "workers": 2},
        "masking": {"ratio": [0.2, 0.4]},
        "hardware": {"peak_tflops": 100.0},
    }
    file = tmp_path / "config.toml"
    file.write_text(build_config(Document("preset", "preset", tables), {}, [], {}).to_toml(), encoding="utf-8")
    document = read_written(file).overridden([change])
    with pytest.raises(ConfigError, match="has no effect"):  # as a preset of somebody
        build_config(Document(str(file), "config", document.tables), {}, [], {})
    config = build_config(document, {}, [], {})
    table, _, option = change.partition("=")[0].partition(".")
    assert str(getattr(getattr(config, table), option)) in (change.partition("=")[2], "0.0", "None")


def test_an_option_of_a_plugin_may_lose_its_effect(tmp_path: Path) -> None:
    options = {"spiky": Spiky}
    tables = {"data": {"path": "x", "effective_batch": 64}, "run": {"max_steps": 5000}, "plugins": {"spiky": {}}}
    file = tmp_path / "config.toml"
    file.write_text(build_config(Document("preset", "preset", tables), options, [], {}).to_toml(), encoding="utf-8")
    document = read_written(file).overridden(["plugins.spiky.weight=0.0"])
    with pytest.raises(ConfigError, match="has no effect because"):
        build_config(Document(str(file), "config", document.tables), options, [], {})
    assert build_config(document, options, [], {}).plugins["spiky"].weight == 0
