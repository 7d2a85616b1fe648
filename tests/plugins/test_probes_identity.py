"""probes: which values may stand beside each other, and which must not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner
from probe_images import TOML, write_masks, write_photos

from bigrun.cli import main
from bigrun.testing.runner import Runner
from bigrun_probes.config import ProbesConfig
from bigrun_probes.probe_set import ProbeSet


def bigrun(*arguments: object) -> Any:
    return CliRunner().invoke(main, [*map(str, arguments)])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps with probes, and another folder with images of the same names."""
    home = tmp_path_factory.mktemp("identity")
    write_photos(home / "photos")
    shutil.copytree(home / "photos", home / "copy")
    shutil.copytree(home / "photos", home / "other")
    for number, path in enumerate(sorted((home / "other").glob("*/*.png"))):
        shutil.copy(sorted((home / "photos").glob("*/*.png"))[-1 - number], path)
    preset = TOML.format(path=home / "photos", steps=2, log=1, save=1, lr=0.02)
    (home / "tiny.toml").write_text(preset + '[plugins.probes]\nlabels = "folder"\n[plugins.metrics-log]\n')
    done = bigrun("run", home / "tiny.toml", "--run-dir", home / "run")
    assert done.exit_code == 0, done.output
    return home


def evaluated(made: Path, *arguments: object) -> Any:
    done = bigrun("eval", made / "run", *arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_the_runs_own_baselines_stand_beside_values_of_its_own_images_alone(made: Path) -> None:
    own = evaluated(made)
    assert all("before_step_1" in row for row in own["values"].values())
    copy = evaluated(made, "--set", f"data.path={made / 'copy'}")
    assert copy["set"]["identity"] == own["set"]["identity"], "the same images, wherever they lie"
    others: list[tuple[object, ...]] = [
        ("--path", made / "other", "--labels", "folder"),
        ("--path", made / "photos", "--labels", "folder"),
        ("--set", f"data.path={made / 'other'}"),
        ("--set", "views.blur_probability=[0.0,0.1,0.5]"),
        ("--set", "views.mean=[0.1,0.1,0.1]"),
    ]
    identities = {own["set"]["identity"]}
    for arguments in others:
        found = evaluated(made, *arguments)
        assert not [row for row in found["values"].values() if "before_step_1" in row], arguments
        identities.add(found["set"]["identity"])
    assert len(identities) == len(others) + 1


def test_a_tone_and_what_an_index_says_are_parts_of_the_identity(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    data = {"path": str(tmp_path / "photos"), "effective_batch": 4, "workers": 0}
    run = Runner(tmp_path).run(steps=1, dataset=False, data=data).run
    assert run is not None
    before = ProbeSet.of(run, ProbesConfig()).identity
    assert ProbeSet.of(run, ProbesConfig()).identity == before

    class Window:
        def describe(self) -> str:
            return "-100 to 300 HU"

        def __getattr__(self, name: str) -> Any:
            return getattr(tone, name)

    tone = run.views.tone
    run.views.tone = Window()  # type: ignore[assignment]
    assert ProbeSet.of(run, ProbesConfig()).identity != before
    run.views.tone = tone

    class Indexed:
        """The same files, of which somebody knows the contents."""

        def __init__(self, first_byte: int) -> None:
            self.first_byte = first_byte

        def __getattr__(self, name: str) -> Any:
            return getattr(files, name)

        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, number: int) -> Any:
            return files[number]

        def hashes(self) -> Any:
            import numpy as np

            rows = np.zeros((len(files), 32), np.uint8)
            rows[0, 0] = self.first_byte
            return rows

    files = run.dataset.files  # type: ignore[attr-defined]
    found = set()
    for first_byte in (0, 1):
        run.dataset.files = Indexed(first_byte)  # type: ignore[attr-defined]
        found.add(ProbeSet.of(run, ProbesConfig()).identity)
    assert len(found | {before}) == 3


def test_a_run_that_continues_with_other_views_begins_its_best_anew(bigrunner: Runner) -> None:
    first = bigrunner.run("probes", steps=2)
    other = bigrunner.run("probes", steps=4, directory=first.directory, views={"blur_probability": [0.0, 0.1, 0.5]})
    (event,) = [e for e in other.events if e.kind == "probes-changed"]
    assert "the best begin anew" in event.message
    assert other.run is not None
    state = other.run.plugins.active["probes"].state
    assert {reading.step for reading in state.best.values()} <= {3, 4}
    assert state.baselines.begin is None


# -- before there are images ----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", ["", 'labels = "folder"\n'])
def test_a_preset_without_images_is_checked_without_an_error(tmp_path: Path, options: str) -> None:
    preset = TOML.format(path="x", steps=2, log=1, save=1, lr=0.02).replace('path = "x"\n', "")
    (tmp_path / "tiny.toml").write_text(f"{preset}[plugins.console]\n[plugins.probes]\n{options}")
    done = bigrun("check", tmp_path / "tiny.toml")
    assert done.exit_code == 0, done.output
    assert "probes       no images yet" in done.output
    assert "error" not in done.output


# -- masks that show nothing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["that are asked about", "of the gallery"])
def test_masks_that_are_nothing_on_one_side_are_named_when_the_set_is_chosen(
    made: Path, tmp_path: Path, side: str
) -> None:
    import numpy as np
    from PIL import Image

    from bigrun_probes.names import by_place

    write_masks(tmp_path / "masks")
    names = sorted(str(path.relative_to(made / "photos")) for path in (made / "photos").glob("*/*.png"))
    order = [names[number] for number in by_place(names)]
    empty = order[:6] if side == "that are asked about" else order[6:]
    for name in empty:
        Image.fromarray(np.full((40, 44), 255, np.uint8)).save(tmp_path / "masks" / name)
    done = bigrun("eval", made / "run", "--masks", tmp_path / "masks", "--probe", "dense")
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    assert f"the masks of all {len(empty)} images {side} are 255 (nothing)" in done.output
    assert str(tmp_path / "masks" / empty[0]) in done.output
    preset = (made / "tiny.toml").read_text().replace('labels = "folder"', f'masks = "{tmp_path / "masks"}"')
    (tmp_path / "tiny.toml").write_text(f"{preset}[plugins.console]\n")
    checked = bigrun("check", tmp_path / "tiny.toml")
    assert f"{side} are 255 (nothing)" in checked.output


def test_masks_of_which_only_the_empty_ones_are_left_to_read_are_a_data_error(made: Path) -> None:
    """The images of all queries whose mask has a class are away: of the others nothing can be said."""
    import torch

    from bigrun.errors import DataError
    from bigrun_probes.classify import dense_scores
    from bigrun_probes.probe_set import Masked

    pixels = torch.full((3, 4, 4), 255, dtype=torch.uint8)
    pixels[1:] = 0
    pixels[2, :2] = 1
    masked = Masked(None, pixels, torch.tensor([True, False, False]), (0, 1))  # type: ignore[arg-type]
    config = ProbesConfig(masks="x")
    with pytest.raises(DataError, match="no pixel of the images that are asked about has a class"):
        dense_scores(torch.ones(3, 4, 5), masked, 2, config)
    turned = attrs.evolve(masked, is_query=~masked.is_query)
    with pytest.raises(DataError, match="no patch of the gallery has a class"):
        dense_scores(torch.ones(3, 4, 5), turned, 2, config)


# -- where the answer goes ------------------------------------------------------------------------------------


def test_the_place_of_the_answer_is_looked_at_before_anything_is_computed(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bigrun.evaluation import newest as module

    monkeypatch.setattr(module, "find_checkpoint", lambda *_: pytest.fail("it has begun"))
    (newest,) = (made / "run" / "checkpoints").glob("*2")
    for out, said in (
        (tmp_path / "nowhere" / "x.json", "there is no folder"),
        (tmp_path, "that is a folder"),
        (made / "run" / "x.json", "is inside the run directory"),
        (tmp_path / ("x" * 5000), "File name too long"),
    ):
        for source in (made / "run", newest):
            done = bigrun("eval", source, "--probe", "retrieval", "--out", out)
            assert done.exit_code == 2, done.output
            assert said in done.output
            assert "Traceback" not in done.output
