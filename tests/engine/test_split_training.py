"""A run with a split trains on the training part alone, says so, writes it down, and does not go on with another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from typed import Typed, train_once

from bigrun.checkpoint.facts import load_facts
from bigrun.data.dataset import Samples
from bigrun.data.order import EpochOrder
from bigrun.data.split import Split
from bigrun.data.tone import describe_tone
from bigrun.errors import ExitCode, UsageError
from bigrun.markers import hookimpl
from bigrun.run import Run
from bigrun.testing.runner import Runner, SyntheticImages

VALIDATION = ["p2", "p5"]
Floats = npt.NDArray[np.float64]


def manifest(folder: Path, groups: list[str] = VALIDATION, level: str = "patient") -> str:
    """A manifest that lists its groups; returns its path."""
    path = folder / f"{'-'.join(groups)}.json"
    document = {"format_version": 1, "rule": "list", "level": level, "validation_groups": groups}
    path.write_text(json.dumps(document), encoding="utf-8")
    return str(path)


class Patients(SyntheticImages):
    """Two images of each of twelve patients."""

    levels: tuple[str, ...] = ("patient",)

    def __init__(self, patients: list[str] | None = None) -> None:
        self.patients = patients or [f"p{number}" for number in range(12) for _ in "ab"]
        super().__init__(len(self.patients))

    def groups(self, level: str) -> npt.NDArray[np.object_]:
        assert level == "patient"
        return np.array(self.patients, dtype=object)

    def describe(self, index: int) -> str:
        return f"slice of {self.patients[index]}"


class Watcher:
    """Sees the samples of every step."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.run: Run | None = None

    @hookimpl
    def after_step(self, run: Run, step: int) -> None:
        self.run = run
        describe: Any = run.dataset.describe  # type: ignore[attr-defined]
        self.seen += [describe(int(index)) for samples in run.samples for index in samples.indices]


def test_no_sample_of_the_validation_part_is_trained_on(bigrunner: Runner, tmp_path: Path) -> None:
    watcher = Watcher()
    result = bigrunner.run(steps=10, dataset=Patients(), companions=[watcher], data={"split": manifest(tmp_path)})
    result.assert_finished()
    trained = {f"slice of p{number}" for number in range(12)} - {f"slice of {key}" for key in VALIDATION}
    assert set(watcher.seen) == trained
    assert len(watcher.seen) == 40
    run = watcher.run
    assert run is not None
    assert (len(run.dataset), len(run.validation or ())) == (20, 4)
    assert run.validation is not None
    describe: Any = run.validation.describe  # type: ignore[attr-defined]
    assert [describe(index) for index in range(4)] == [f"slice of {key}" for key in ("p2", "p2", "p5", "p5")]
    whole = Patients()
    assert (run.validation[2] == whole[whole.patients.index("p5")]).all()
    line = f"split        by patient: 20 samples for training, 4 left out for validation ({manifest(tmp_path)})"
    assert line in run.header


def test_a_part_of_the_data_is_trained_on_as_if_it_were_all(bigrunner: Runner, tmp_path: Path) -> None:
    """The order and the draws are those of a data set without the others."""
    last = [f"p{number}" for number in range(10, 12)]
    divided = bigrunner.run(dataset=Patients(), data={"split": manifest(tmp_path, last)})
    alone = bigrunner.run(dataset=Patients(Patients().patients[:20]))
    assert divided.losses == alone.losses
    assert len(divided.losses) == 3


class OfEachPatient:
    """A tone of a data set of patients, with a number for each of its samples, and no opinion on another data set."""

    def __init__(self) -> None:
        self.lit: list[str] = []

    @hookimpl
    def build_tone(self, run: Run) -> OfEachPatient | None:
        if not isinstance(run.dataset, Patients):
            return None
        self.patients = run.dataset.patients
        return self

    def describe(self) -> str:
        return "of each patient"

    def affine(self, samples: Samples, views: npt.NDArray[np.int64], seed: int) -> tuple[Floats, None]:
        self.lit += [f"slice of {self.patients[int(index)]}" for index in samples.indices]
        gain, _ = self.typical(samples)
        return np.tile(gain, (len(views), 1)), None

    def typical(self, samples: Samples) -> tuple[Floats, None]:
        return np.full(len(samples), 1 / 255), None


@pytest.mark.parametrize("own", [False, True])
def test_the_tone_of_a_data_set_is_that_of_its_parts(bigrunner: Runner, tmp_path: Path, own: bool) -> None:
    """Whether the engine divides the data set or the data set itself; each sample has its own."""
    watcher, tone = Watcher(), OfEachPatient()
    dataset = OwnSubset() if own else Patients()
    result = bigrunner.run(steps=5, dataset=dataset, companions=[watcher, tone], data={"split": manifest(tmp_path)})
    result.assert_finished()
    assert tone.lit == watcher.seen
    assert len(set(tone.lit)) == 10
    assert result.run is not None
    assert describe_tone(result.run.views.tone) == "of each patient"


def test_a_data_set_that_does_not_know_the_level_is_refused(bigrunner: Runner, tmp_path: Path) -> None:
    for dataset in (SyntheticImages(), Patients()):
        level = "patient" if type(dataset) is SyntheticImages else "series"
        result = bigrunner.run(dataset=dataset, data={"split": manifest(tmp_path, level=level)})
        assert result.exit_code == ExitCode.USAGE
        assert f"knows no {level}" in str(result.error)
        assert not result.directory.exists()


def test_a_manifest_of_other_data_is_refused_or_said(bigrunner: Runner, tmp_path: Path) -> None:
    everybody = manifest(tmp_path, [f"p{number}" for number in range(12)])
    refused = bigrunner.run(dataset=Patients(), data={"split": everybody})
    assert refused.exit_code == ExitCode.USAGE
    assert "all 24 samples of the data set are in its validation part" in str(refused.error)
    others = manifest(tmp_path, ["q1"])
    result = bigrunner.run(dataset=Patients(), data={"split": others})
    assert result.run is not None
    assert (
        f"split        by patient, {others}: no sample of the data set is in its validation part" in result.run.header
    )
    warning = f"warning      data.split = {others}: keeps nothing apart, for no sample is in its validation part"
    assert any(line.startswith(warning) for line in result.run.header)


class OwnSubset(Patients):
    """As CT slices are: an order of its own, and so a subset of its own."""

    leaks = False

    def order(self, seed: int, effective_batch: int) -> EpochOrder:
        return EpochOrder(len(self), seed)

    def subset(self, indices: npt.NDArray[np.int64]) -> OwnSubset:
        kept = range(len(self)) if self.leaks else indices
        return type(self)([self.patients[int(index)] for index in kept])


def test_a_data_set_makes_its_parts_itself_if_it_can(bigrunner: Runner, tmp_path: Path) -> None:
    result = bigrunner.run(dataset=OwnSubset(), data={"split": manifest(tmp_path)})
    result.assert_finished()
    assert result.run is not None
    assert isinstance(result.run.dataset, OwnSubset)
    assert isinstance(result.run.validation, OwnSubset)
    assert result.run.validation.patients == ["p2", "p2", "p5", "p5"]


def test_a_part_that_leaks_is_refused_with_what_it_leaks(bigrunner: Runner, tmp_path: Path) -> None:
    class Leaking(OwnSubset):
        leaks = True

    result = bigrunner.run(dataset=Leaking(), data={"split": manifest(tmp_path)})
    assert result.exit_code == ExitCode.USAGE
    assert "4 of the 24 samples that the data set's `subset` gives" in str(result.error)
    assert "slice of p2 (patient p2), slice of p2 (patient p2), slice of p5 (patient p5)" in str(result.error)


def test_an_order_without_a_subset_is_refused(bigrunner: Runner, tmp_path: Path) -> None:
    class Ordered(Patients):
        def order(self, seed: int, effective_batch: int) -> EpochOrder:
            return EpochOrder(len(self), seed)

    result = bigrunner.run(dataset=Ordered(), data={"split": manifest(tmp_path)})
    assert result.exit_code == ExitCode.USAGE
    assert "Ordered has `order`, which counts all its samples, and no `subset(indices)`" in str(result.error)


def test_a_plugin_may_leave_the_samples_out_itself(bigrunner: Runner, tmp_path: Path) -> None:
    class Brings:
        @hookimpl(tryfirst=True)
        def build_dataset(self, run: Run) -> Patients:
            assert run.split is not None
            keys = np.array(Patients().patients, dtype=object)
            return Patients(keys[run.split.training(keys)].tolist())

    result = bigrunner.run(dataset=False, companions=[Brings()], data={"split": manifest(tmp_path)})
    result.assert_finished()
    assert result.run is not None
    assert (len(result.run.dataset), result.run.validation) == (20, None)


# -- folders, through the command line --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_once(tmp_path_factory, 1)


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    return Typed(tmp_path, monkeypatch, run={"max_steps": 2}, data={"split": "split.json"})


def divide(typed: Typed, *words: str) -> None:
    done = typed.type("data", "split", "images", "--fraction", "0.3", *words)
    assert done.code == 0, done.said


def test_a_run_writes_down_which_manifest_it_used(typed: Typed) -> None:
    divide(typed)
    assert typed.type("check", "tiny.toml").code == 0
    done = typed.train()
    assert done.code == 0, done.said
    split = Split.load("split.json")
    assert (typed.run / "split.json").read_bytes() == split.contents
    facts = load_facts(typed.checkpoint(2), "state")
    assert facts["split"] == {
        "path": str(typed.folder / "split.json"), "sha256": split.sha256, "identity": split.identity, "level": "image",
    }  # fmt: skip
    assert facts["images"] == 10 - len(split.validation_groups)
    assert "every file is read for it at each start, since there is no index" in done.said
    assert typed.type("data", "index", "images").code == 0
    assert "every file is read" not in typed.type("check", "tiny.toml").said
    assert f"split = '{typed.folder}/split.json'" in (typed.run / "config.toml").read_text().replace('"', "'")


def test_a_run_does_not_go_on_with_another_manifest(typed: Typed) -> None:
    divide(typed)
    first = typed.train("--set", "run.max_steps=1")
    assert first.code == 0, first.said
    before = {path: path.read_bytes() for path in typed.run.rglob("*") if path.is_file()}
    divide(typed, "--seed", "5", "--force")
    refused = typed.train()
    assert refused.code == ExitCode.USAGE
    assert "data.split:" in refused.said
    assert f"the manifest of then is {Path('runs/tiny/split.json')}" in refused.said
    assert {path: path.read_bytes() for path in typed.run.rglob("*") if path.is_file()} == before
    shutil.copy(typed.run / "split.json", "split.json")
    assert typed.train().code == 0
    assert typed.events("resumed")


def test_a_run_goes_on_with_a_manifest_that_divides_alike(typed: Typed) -> None:
    divide(typed)
    assert typed.train("--set", "run.max_steps=1").code == 0
    document = json.loads(Path("split.json").read_text())
    Path("split.json").write_text(json.dumps(document | {"created_utc": "later", "bigrun": "9"}))
    done = typed.train()
    assert done.code == 0, done.said


def test_a_run_may_change_its_manifest_if_that_is_meant(typed: Typed) -> None:
    divide(typed)
    assert typed.train("--set", "run.max_steps=1").code == 0
    divide(typed, "--seed", "5", "--force")
    done = typed.train("--allow-change", "data.split", "--allow-change", "data.images")
    assert done.code == 0, done.said
    changes = [event for event in typed.events("config-changed") if event["facts"].get("key") == "data.split"]
    assert len(changes) == 1
    assert (typed.run / "split.json").read_bytes() == Path("split.json").read_bytes()


def test_a_run_that_began_without_one_does_not_go_on_with_one(trained_once: Path, typed: Typed) -> None:
    shutil.copytree(trained_once / "runs", typed.folder / "runs")
    divide(typed)
    done = typed.train("--set", f"data.path='{trained_once}/images'")
    assert done.code == ExitCode.USAGE
    assert "data.split: absent ->" in done.said


def test_a_manifest_that_is_not_there_is_said_before_any_image_is_read(typed: Typed) -> None:
    shutil.rmtree("images")
    done = typed.train()
    assert done.code == ExitCode.USAGE
    assert "split.json: cannot be read (No such file or directory)" in done.said
    assert not typed.run.exists()


def test_check_names_a_split_before_there_are_images(typed: Typed) -> None:
    divide(typed)
    text = (typed.folder / "tiny.toml").read_text().replace('path = "images"\n', "")
    (typed.folder / "tiny.toml").write_text(text)
    done = typed.type("check", "tiny.toml")
    assert done.code == 0, done.said
    assert "no images are named yet" in done.said


def test_the_public_helper_is_documented_by_this(tmp_path: Path) -> None:
    split = Split.load(manifest(tmp_path))
    assert split.training(["p1", "p2"]).tolist() == [True, False]
    with pytest.raises(UsageError):
        Split.load(tmp_path)
