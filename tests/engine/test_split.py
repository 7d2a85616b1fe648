"""The laws of a split, its file, and the data sets that can be divided."""

from __future__ import annotations

import json
import random
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import pytest
import torch
from click.testing import CliRunner
from hypothesis import assume, given, settings
from PIL import Image
from torch import Tensor

from bigrun.cli import main
from bigrun.data.fingerprint import fingerprint
from bigrun.data.folder import ImageFolder
from bigrun.data.split import Split, file_groups, groups_of, levels_of
from bigrun.data.split.make import Division, divide, make_split
from bigrun.data.split.rule import place
from bigrun.data.split.write import encode, write_split
from bigrun.errors import UsageError


class Grouped:
    """Samples that are nothing but the patient they are of."""

    def __init__(self, patients: list[str | None], **other: list[str | None]) -> None:
        self.columns: dict[str, list[Any]] = {"patient": patients, **other}
        self.levels = tuple(self.columns)

    def __len__(self) -> int:
        return len(self.columns["patient"])

    def __getitem__(self, index: int) -> Tensor:
        return torch.full((1, 4, 4), index, dtype=torch.uint8)

    def groups(self, level: str) -> npt.NDArray[np.object_]:
        return np.array([*self.columns[level], None], dtype=object)[:-1]


def split_of(patients: list[str], fraction: float = 0.1, seed: int = 0, **options: Any) -> Division:
    return make_split(Grouped(list(patients)), "x", fraction=fraction, seed=seed, level="patient", **options)


# -- laws -------------------------------------------------------------------------------------------------------------

names = st.text(st.characters(exclude_categories=[]), min_size=1, max_size=6)
patients = st.lists(names, min_size=2, max_size=30)
fractions = st.floats(0.01, 0.99)
seeds = st.integers(-(2**70), 2**70)


def several(keys: list[str]) -> bool:
    return len({unicodedata.normalize("NFC", key) for key in keys}) > 1


@settings(deadline=None)
@given(patients, fractions, seeds, st.randoms(use_true_random=False))
def test_the_order_of_the_samples_does_not_matter(
    keys: list[str], fraction: float, seed: int, shuffler: random.Random
) -> None:
    assume(several(keys))
    shuffled = list(keys)
    shuffler.shuffle(shuffled)
    first, second = split_of(keys, fraction, seed), split_of(shuffled, fraction, seed)
    assert first == second
    assert first.split.identity == second.split.identity


@settings(deadline=None)
@given(patients, fractions, seeds)
def test_each_group_is_in_one_part_and_each_part_has_a_group(keys: list[str], fraction: float, seed: int) -> None:
    assume(several(keys))
    division = split_of(keys, fraction, seed)
    is_training, is_validation = division.split.training(keys), division.split.validation(keys)
    assert (is_training ^ is_validation).all()
    parts = {unicodedata.normalize("NFC", key): bool(part) for key, part in zip(keys, is_validation, strict=True)}
    assert all(parts[unicodedata.normalize("NFC", key)] == part for key, part in zip(keys, is_validation, strict=True))
    assert set(parts.values()) == {True, False}
    assert division.validation == (sum(parts.values()), is_validation.sum())
    assert division.training == (len(parts) - sum(parts.values()), is_training.sum())


@settings(deadline=None)
@given(patients, patients, fractions, seeds)
def test_data_that_grow_move_no_group(keys: list[str], others: list[str], fraction: float, seed: int) -> None:
    """The first manifest has an answer for those that come, and the next one says the same of everybody."""
    assume(several(keys))
    first = split_of(keys, fraction, seed).split
    grown = split_of(keys + others, fraction, seed, before=first).split
    assert (grown.validation(keys + others) == first.validation(keys + others)).all()


@settings(deadline=None)
@given(st.lists(names, min_size=60, max_size=90, unique_by=lambda key: unicodedata.normalize("NFC", key)), seeds)
def test_where_the_rule_fills_both_parts_it_is_all_there_is(keys: list[str], seed: int) -> None:
    """So the manifest of a larger data set need not know the earlier one."""
    half = keys[:30]
    small, large = split_of(half, 0.4, seed).split, split_of(keys, 0.4, seed).split
    assume(0 < small.validation(half).sum() < 30)
    assert not large.training_groups
    assert (small.validation(keys) == large.validation(keys)).all()


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.5, 0.9])
def test_of_many_groups_the_fraction_is_for_validation(fraction: float) -> None:
    count, keys = 20_000, [f"patient {number}" for number in range(20_000)]
    for seed in (0, 1, -5):
        (groups, _) = split_of(keys, fraction, seed).validation
        assert abs(groups - fraction * count) < 4.5 * (count * fraction * (1 - fraction)) ** 0.5


def test_seed_and_level_are_independent_draws() -> None:
    places = np.array([[place(seed, level, str(key)) for key in range(2000)] for seed in (0, 1) for level in "ab"])
    assert np.abs(np.corrcoef(places) - np.eye(4)).max() < 0.1
    assert abs(places.mean() - 0.5) < 0.02


def test_the_rule_is_the_same_on_every_machine() -> None:
    r"""As coreutils say: `printf 'bigrun split 1\\0%s\\0patient\\0p1' 0 | sha256sum`."""
    assert place(0, "patient", "p1") == 0x4CFB9921C17DE99A / 2**64
    division = split_of([f"p{number}" for number in range(30)])
    assert division.split.validation_groups == {"p0", "p18", "p21", "p22"}  # 110e, 0d4f, 0a28, 15f3; 0.1 is 1999


def test_accents_are_spelled_in_two_ways_and_are_one_patient() -> None:
    composed, taken_apart = "J\u00f6rg", "Jo\u0308rg"
    for seed in range(20):
        division = split_of([composed, taken_apart, "a", "b", "c"], 0.4, seed)
        assert len(set(division.split.validation([composed, taken_apart]))) == 1
        assert division.training[0] + division.validation[0] == 4


# -- levels -----------------------------------------------------------------------------------------------------------


def test_the_default_is_the_coarsest_level_that_is_known() -> None:
    both = Grouped(list("aabbcc"), series=["1", "2", "3", "4", "5", "6"])
    assert make_split(both, "x", fraction=0.3, seed=0).split.level == "patient"
    assert levels_of(both) == ("patient", "series")


def test_what_may_be_on_both_sides_is_said() -> None:
    both = Grouped(list("aabb"), series=["1", "2", "3", "4"])
    (text,) = [t for t in make_split(both, "x", fraction=0.5, seed=1, level="series").warnings if "patient" in t]
    assert text == "2 of 2 patient groups are on both sides (the first: a)"
    both.levels = ("series",)
    (text,) = make_split(both, "x", fraction=0.5, seed=1).warnings
    assert text == "there is no column `patient`: two series groups of one patient may be on both sides"


def test_gaps_in_a_coarser_column_are_said_and_do_not_matter() -> None:
    series: list[str | None] = list("123456")
    division = make_split(
        Grouped(["a", "a", None, None, "b", "b"], series=series), "x", fraction=0.5, seed=1, level="series"
    )
    assert division.warnings == (
        "2 of 6 samples have no patient: two series groups of one patient may be on both sides",
        "1 of 2 patient groups are on both sides (the first: a)",
    )
    with pytest.raises(UsageError, match="2 of 6 samples have no patient"):
        make_split(Grouped(["a", "a", None, None, "b", "b"], series=series), "x", fraction=0.5, seed=1)


def test_one_group_cannot_be_divided_and_the_next_level_is_named() -> None:
    one = Grouped(list("aaa"), series=["1", "2", "3"])
    with pytest.raises(UsageError, match=r"one patient \(a\).*--level series divides what one patient holds"):
        make_split(one, "x", fraction=0.5, seed=0)


def test_a_sample_without_a_patient_is_refused() -> None:
    with pytest.raises(UsageError, match="2 of 4 samples have no patient, the first sample 1"):
        make_split(Grouped(["a", None, "b", None]), "x", fraction=0.5, seed=0)


def test_a_validation_part_of_another_size_is_said() -> None:
    (text,) = split_of(["p21"] * 9 + ["p1"]).warnings
    assert text.startswith("90.0% of the samples are for validation, asked were 10.0%: the 2 patient groups are few")
    assert not split_of([str(number) for number in range(400)]).warnings


# -- folders ----------------------------------------------------------------------------------------------------------


def fill(root: Path, names: list[str], value: int = 0) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng([value, *name.encode()]).integers(0, 255, (8, 9), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name)
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path / "images", [f"{who}/{number}.png" for who in "abcdef" for number in range(3)])


def test_a_folder_knows_folders_and_contents(folder: Path) -> None:
    fill(folder, ["top.png"])
    images = ImageFolder.search(folder)
    assert levels_of(images) == ("folder", "image")
    assert Counter(groups_of(images, "folder", "x")) == {**dict.fromkeys("abcdef", 3), ".": 1}
    contents = groups_of(images, "image", "x")
    assert len(set(contents)) == 19
    assert all(len(key) == 64 for key in contents)
    with pytest.raises(ValueError, match="expected one of folder, image, got 'patient'"):
        file_groups(images.files, "patient")


def test_copies_of_an_image_are_never_on_both_sides(folder: Path) -> None:
    for number in range(60):
        for copy in "xy":
            fill(folder, [f"{number}.png"])
            (folder / copy).mkdir(exist_ok=True)
            (folder / copy / f"{number} again.png").write_bytes((folder / f"{number}.png").read_bytes())
    images = ImageFolder.search(folder)
    split = make_split(images, "x", fraction=0.3, seed=0, level="image").split
    keys = groups_of(images, "image", "x")
    of_name: dict[str, set[bool]] = {}
    for path, part in zip(images.paths, split.validation(keys), strict=True):
        of_name.setdefault(Path(path).stem.removesuffix(" again"), set()).add(bool(part))
    copied = [of_name[str(number)] for number in range(3, 60)]  # 0 to 2 are names in the folders a to f as well
    assert all(len(parts) == 1 for parts in copied)
    assert {True} in copied


def test_the_same_content_elsewhere_is_divided_alike(folder: Path, tmp_path: Path) -> None:
    """Also when its files were written in another order, and by whatever path it is named."""
    names = sorted((str(path.relative_to(folder)) for path in folder.rglob("*.png")), reverse=True)
    other = tmp_path / "elsewhere" / "x"
    for name in names:
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        (other / name).write_bytes((folder / name).read_bytes())
    for level in ("folder", "image"):
        first, second = (
            encode(make_split(images, "x", fraction=0.4, seed=3, level=level), fingerprint(images))
            for images in (ImageFolder.search(folder), ImageFolder.search(other))
        )
        assert first == second
    (other / "new.png").write_bytes((folder / names[0]).read_bytes())
    assert fingerprint(ImageFolder.search(other)) != fingerprint(ImageFolder.search(folder))


@pytest.mark.parametrize("level", ["folder", "image"])
def test_the_index_and_the_packed_form_are_divided_as_the_folder(folder: Path, tmp_path: Path, level: str) -> None:
    def identity() -> tuple[str, list[bool]]:
        images = ImageFolder.search(path)
        split = make_split(images, "x", fraction=0.4, seed=3, level=level).split
        return split.identity, split.validation(groups_of(images, level, "x")).tolist()

    path = folder
    plain = identity()
    assert bigrun("data", "index", folder)[0] == 0
    assert identity() == plain
    assert fingerprint(ImageFolder.search(folder)).kind == "content"
    code, said = bigrun("data", "pack", folder, tmp_path / "packed")
    assert code == 0, said
    path = tmp_path / "packed"
    assert identity() == plain
    assert fingerprint(ImageFolder.search(path)) == fingerprint(ImageFolder.search(folder))


def test_images_in_one_folder_are_divided_by_image(tmp_path: Path) -> None:
    fill(tmp_path, [f"{number}.png" for number in range(12)])
    assert make_split(ImageFolder.search(tmp_path), "x", fraction=0.2, seed=0).split.level == "image"


def test_a_file_that_cannot_be_read_is_a_group_of_its_own(folder: Path) -> None:
    images = ImageFolder.search(folder)
    (folder / "a" / "0.png").unlink()
    (folder / "a" / "1.png").unlink()
    (folder / "a" / "1.png").mkdir()
    assert len(set(groups_of(images, "image", "x"))) == 18


# -- manifests --------------------------------------------------------------------------------------------------------


def bigrun(*words: Any) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@given(patients, fractions, seeds)
@settings(deadline=None, max_examples=30)
def test_a_manifest_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, keys: list[str], fraction: float, seed: int
) -> None:
    assume(several(keys))
    dataset = Grouped(list(keys))
    division = split_of(keys, fraction, seed)
    path = tmp_path_factory.mktemp("manifest") / "split.json"
    assert write_split(path, encode(division, fingerprint(dataset)), force=False)
    read = Split.load(path)
    assert read.decides() == division.split.decides()
    assert read.identity == division.split.identity
    assert divide(read, Counter(unicodedata.normalize("NFC", key) for key in keys)).validation == division.validation
    assert not write_split(path, encode(division, fingerprint(dataset)), force=False)


def test_the_command_says_what_it_has_done(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "split.json"
    code, said = bigrun("data", "split", folder, "--fraction", "0.3", "--out", out)
    assert code == 0, said
    assert said.startswith("by folder, the coarsest level that tells them apart; seed 0, fraction 0.3\n")
    document = json.loads(out.read_text())
    split, images = Split.load(out), ImageFolder.search(folder)
    assert document["counts"]["validation"]["samples"] == split.validation(groups_of(images, "folder", "x")).sum()
    assert f"validation{document['counts']['validation']['samples']:>10,} samples of" in said
    assert document["source"] == {"kind": "paths-and-sizes", "sha256": fingerprint(images).sha256, "files": 18}
    assert document["bigrun"]
    assert document["created_utc"].endswith("+00:00")
    before = out.read_bytes()
    code, said = bigrun("data", "split", folder, "--fraction", "0.3", "--out", out)
    assert (code, out.read_bytes()) == (0, before)
    assert "says so already, and stays" in said


def test_another_manifest_is_replaced_by_force_only(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "split.json"
    assert bigrun("data", "split", folder, "--fraction", "0.3", "--out", out)[0] == 0
    before = out.read_bytes()
    code, said = bigrun("data", "split", folder, "--fraction", "0.3", "--seed", "7", "--out", out)
    assert (code, out.read_bytes()) == (2, before)
    assert "seed: 0 -> 7" in said
    assert "--force" in said
    assert bigrun("data", "split", folder, "--fraction", "0.3", "--seed", "7", "--out", out, "--force")[0] == 0
    assert Split.load(out).seed == 7
    fill(folder, [f"{who}/new.png" for who in "abcdef"])
    code, said = bigrun("data", "split", folder, "--fraction", "0.3", "--seed", "7", "--out", out)
    assert code == 2
    assert "it divides alike, and only the data are others: --force" in said


def test_a_forced_group_stays_when_others_come(tmp_path: Path) -> None:
    """None of two folders falls below the fraction: one is for validation all the same, and remains it."""
    images, out = fill(tmp_path / "images", ["a/0.png", "b/0.png"]), tmp_path / "split.json"
    assert bigrun("data", "split", images, "--fraction", "0.01", "--out", out)[0] == 0
    (first,) = Split.load(out).validation_groups
    fill(images, [f"{number}/0.png" for number in range(400)])
    assert bigrun("data", "split", images, "--fraction", "0.01", "--out", out, "--force")[0] == 0
    assert first in Split.load(out).validation_groups
    assert len(Split.load(out).validation_groups) > 1


@pytest.mark.parametrize("words", [("--fraction", "0"), ("--fraction", "1"), ("--fraction", "nan")])
def test_a_fraction_is_between_zero_and_one(folder: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    code, said = bigrun("data", "split", folder, *words, "--out", tmp_path / "x.json")
    assert code == 2
    assert "expected more than 0 and less than 1" in said
    assert not (tmp_path / "x.json").exists()


GOOD: dict[str, Any] = {
    "format_version": 1, "rule": "sha256", "seed": 0, "fraction": 0.1, "level": "patient",
    "validation_groups": ["a"], "training_groups": [],
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format_version": 2}, "a split manifest of format 2, expected 1: use the version of bigrun"),
        ({"rule": "md5"}, "rule: expected sha256 or list, got 'md5'"),
        ({"seed": True}, "seed: expected a whole number, got True"),
        ({"seed": "0"}, "seed: expected a whole number, got '0'"),
        ({"fraction": 1}, "fraction: expected a number above 0 and below 1, got 1"),
        ({"level": "hospital"}, "level: expected one of patient, study, series, folder, image, got 'hospital'"),
        ({"validation_groups": ["a", 1]}, "validation_groups: expected a list of texts, got"),
        ({"training_groups": None}, "training_groups: expected a list of texts, got None"),
    ],
)
def test_what_is_wrong_with_a_manifest_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = tmp_path / "split.json"
    path.write_text(json.dumps(GOOD))
    assert Split.load(path).validation_groups == {"a"}
    path.write_text(json.dumps(GOOD | change))
    with pytest.raises(UsageError, match=r"split\.json") as raised:
        Split.load(path)
    assert said in str(raised.value)
    (key,) = change
    path.write_text(json.dumps({name: value for name, value in GOOD.items() if name != key}))
    with pytest.raises(UsageError):
        Split.load(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000, "\ufeff{}"])
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "split.json").write_text(text)
    with pytest.raises(UsageError, match="not a split manifest"):
        Split.load(tmp_path / "split.json")
    with pytest.raises(UsageError, match=r"no\.json: cannot be read .*bigrun data split"):
        Split.load(tmp_path / "no.json")


def test_a_list_of_ones_own_is_a_split(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    own = {"format_version": 1, "rule": "list", "level": "patient", "validation_groups": ["p3"]}
    path.write_text(json.dumps(own))
    split = Split.load(path)
    assert split.validation(["p1", "p2", "p3", *map(str, range(200))]).sum() == 1
    assert split.training(np.array(["p3", "p1"], dtype=object)).tolist() == [False, True]
