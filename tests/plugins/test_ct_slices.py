"""ct-slices: what a sample is, what its values mean, and a run on them."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
import warm
from ct import COLUMNS, Scan, body_hu, encode, two_data_sets, write_ct
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bigrun import hookimpl
from bigrun.data.dataset import Batch, Samples
from bigrun.data.faults import BadImageError
from bigrun.data.files import open_files
from bigrun.data.group_order import GroupOrder
from bigrun.data.tone import FullRange
from bigrun.errors import NoImagesError, RunDirectoryError, UsageError
from bigrun.export.export import export_checkpoint
from bigrun.session import run_training
from bigrun.testing.contract import PluginContract
from bigrun.testing.runner import Runner, RunResult
from bigrun_ct.config import CtConfig, Encoding
from bigrun_ct.dataset import SliceDataset
from bigrun_ct.index import read_index
from bigrun_ct.plugin import CtSlices
from bigrun_ct.series import find_series
from bigrun_ct.slices import SliceCache
from bigrun_ct.tone import HuWindow, window_line

CT_VIEWS = {"colour_probability": 0.0, "grayscale_probability": 0.0, "solarise_probability": 0.0}
ENCODINGS = {"datasets": {"whole": {"hu_slope": 1.0, "hu_offset": 1024.0}}}


def opened(root: Path, channels: int = 3, **options: Any) -> SliceDataset:
    sets = {name: Encoding(**values) for name, values in options.pop("datasets", ENCODINGS["datasets"]).items()}
    files = open_files(root, lambda: read_index(root / "index.csv"))
    return SliceDataset(files, find_series(files, str(root)), channels, CtConfig(datasets=sets, **options))


def names_of(dataset: SliceDataset) -> list[str]:
    return [str(Path(dataset.describe(k)).relative_to(dataset.files.root).with_suffix("")) for k in range(len(dataset))]


def stored(root: Path, *paths: str) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(Image.open(root / f"{path}.png"))) for path in paths])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_data_sets(tmp_path_factory.mktemp("ct"))


# -- samples --------------------------------------------------------------------------------------------------


def test_a_sample_is_a_slice_between_its_neighbours(root: Path) -> None:
    dataset = opened(root)
    names = names_of(dataset)
    assert names == sorted(names, key=lambda name: (name.rsplit("/")[0:-1] != ["a", "one"], names.index(name)))
    assert len(dataset) == 17
    for name, near in {
        "a/one/002": ("001", "002", "003"), "a/one/000": ("000", "000", "001"), "a/two/003": ("002", "003", "003"),
        "b/four/005": ("005", "005", "005"),
    }.items():  # fmt: skip
        folder = name.rpartition("/")[0]
        image = dataset[names.index(name)]
        assert image.dtype == torch.uint16
        assert torch.equal(image.int(), stored(root, *(f"{folder}/{index}" for index in near)).int())


def test_one_channel_is_the_slice_alone(root: Path) -> None:
    dataset = opened(root, channels=1)
    assert torch.equal(dataset[2].int(), stored(root, names_of(dataset)[2]).int())


def test_the_stride_leaves_out_samples_and_no_neighbours(root: Path) -> None:
    dataset = opened(root, z_stride=3)
    assert names_of(dataset) == [
        "a/one/000", "a/one/003", "a/two/000", "a/two/003", "b/four/005", "b/three/010", "b/three/013",
    ]  # fmt: skip
    assert torch.equal(dataset[1].int(), stored(root, "a/one/002", "a/one/003", "a/one/004").int())
    assert "7 slices of 4 series; of 17 files, z_stride 3; tenth 4, whole 3; 1 gap in series" in dataset.summary()


def test_a_neighbour_of_another_size_is_not_used(tmp_path: Path) -> None:
    write_ct(tmp_path, [Scan("s", range(5))])
    Image.fromarray(np.zeros((16, 16), dtype=np.uint16)).save(tmp_path / "s/003.png")
    dataset = opened(tmp_path, channels=5, datasets={})
    assert torch.equal(dataset[2].int(), stored(tmp_path, *(f"s/00{k}" for k in (0, 1, 2, 2, 2))).int())
    assert dataset[3].shape == (5, 16, 16)


def test_a_slice_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    write_ct(tmp_path, [Scan("s", range(3))])
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(tmp_path / "s/002.png")
    (tmp_path / "s/000.png").write_bytes(b"")
    dataset = opened(tmp_path, channels=1, datasets={})
    with pytest.raises(BadImageError, match=r"s/000\.png"):
        dataset[0]
    with pytest.raises(BadImageError, match="3 channels, expected a grey slice") as caught:
        dataset[2]
    assert caught.value.cause == "unsupported"


def test_a_slice_of_8_bits_is_not_read_as_one_of_16(tmp_path: Path) -> None:
    """Its air of 0 would be -3277 HU, and all of it black."""
    write_ct(tmp_path, [Scan("s", range(3))])
    Image.fromarray(np.zeros((32, 32), dtype=np.uint8)).save(tmp_path / "s/001.png")
    dataset = opened(tmp_path, datasets={})
    with pytest.raises(BadImageError, match="values are uint8, expected uint16, of which hu_slope") as caught:
        dataset[1]
    assert (caught.value.path, caught.value.cause) == ("s/001.png", "unsupported")
    assert torch.equal(dataset[0].int(), stored(tmp_path, *["s/000"] * 3).int())


def test_a_neighbour_that_cannot_be_read_is_not_there(tmp_path: Path) -> None:
    write_ct(tmp_path, [Scan("s", range(6))])
    (tmp_path / "s/003.png").write_bytes(b"")
    dataset = opened(tmp_path, channels=5, datasets={})
    for centre, near in {1: (0, 0, 1, 2, 2), 2: (0, 1, 2, 2, 2), 4: (4, 4, 4, 5, 5), 5: (4, 4, 5, 5, 5)}.items():
        assert torch.equal(dataset[centre].int(), stored(tmp_path, *(f"s/00{k}" for k in near)).int())
    with pytest.raises(BadImageError, match=r"s/003\.png"):
        dataset[3]
    every_other = opened(tmp_path, datasets={}, z_stride=2)  # 0, 2 and 4: nobody else would tell of 3
    with pytest.raises(BadImageError, match=r"s/003\.png"):
        every_other[1]


def test_a_damaged_slice_is_told_once_and_costs_no_neighbour(bigrunner: Runner, tmp_path: Path) -> None:
    write_ct(tmp_path, [Scan("s", range(16))])
    (tmp_path / "s/003.png").write_bytes(b"")
    results = []
    for workers in (0, 2):
        watch, data = Watch(), {"max_bad_fraction": 0.1, "workers": workers}
        result = train(bigrunner, tmp_path, config={}, data=data, steps=8, companions=[watch], **run_views())
        result.assert_finished()
        results.append(result)
        assert {index for batch in watch.batches for index in batch.indices.tolist()} == {*range(16)} - {3}
    assert results[0].losses == results[1].losses
    for result in results:
        lines = (result.directory / "bad-images.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["path"] for line in lines] == ["s/003.png"]


def test_a_subset_has_its_samples_and_all_neighbours(root: Path) -> None:
    whole = opened(root)
    part = whole.subset(np.array([9, 2, 12]))
    assert names_of(part) == [names_of(whole)[k] for k in (9, 2, 12)]
    assert all(torch.equal(part[k].int(), whole[j].int()) for k, j in enumerate((9, 2, 12)))
    assert part.groups("patient").tolist() == whole.groups("patient")[[9, 2, 12]].tolist()
    spacing = part.spacing_mm(np.arange(3))
    assert spacing is not None
    assert np.allclose(spacing, [[0.5, 0.5, 2.5], [0.7, 0.8, 5], [0.7, 0.8, 5]])
    assert sorted(part.order(0, 2).index(np.arange(3))[1].tolist()) != [9, 2, 12]
    assert len(part) == len(part.order(0, 2).members) == 3


def test_slices_are_kept_together_by_patient_and_series_and_never_alone(root: Path, tmp_path: Path) -> None:
    dataset = opened(root)
    assert dataset.levels == ("patient", "series")
    assert Counter(dataset.groups("patient").tolist()) == {"p1": 12, "p2": 4, "p3": 1}
    assert set(dataset.groups("series").tolist()) == {"a/one", "a/two", "b/three", "b/four"}
    with pytest.raises(ValueError, match="expected one of patient, series"):
        dataset.groups("image")


def test_without_spacing_there_is_none(tmp_path: Path) -> None:
    dataset = opened(write_ct(tmp_path, [Scan("s", range(2))], COLUMNS[:3]), datasets={})
    assert dataset.spacing_mm(np.arange(2)) is None


# -- values ---------------------------------------------------------------------------------------------------

hounsfield = st.floats(-1024, 3071)
encodings = st.sampled_from([(0.1, 32768.0), (1.0, 1024.0), (1.0, 32768.0), (0.25, 8192.0)])


@settings(deadline=None)
@given(hu=hounsfield, encoding=encodings, level=st.floats(-400, 400), width=st.floats(800, 2000))
def test_a_window_of_what_was_stored_is_the_window_of_hu(
    hu: float, encoding: tuple[float, float], level: float, width: float
) -> None:
    slope, offset = encoding
    value = float(encode(np.array(hu), slope, offset))
    decoded = (value - offset) * slope
    assert abs(decoded - hu) <= slope / 2 + 1e-9
    gain, shift = window_line(*map(np.float64, (slope, offset, level, width)))
    assert gain * value + shift == pytest.approx((decoded - (level - width / 2)) / width, abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**40), epoch=st.integers(0, 10**6), level=st.floats(-500, 0), width=st.floats(1, 2000),
    more=st.just(0.0) | st.floats(0.1, 800),
)  # fmt: skip
def test_windows_are_drawn_from_the_ranges(seed: int, epoch: int, level: float, width: float, more: float) -> None:
    tone = HuWindow(np.full(50, 0.1), np.full(50, 32768.0), (level, level + more), (width, width + more))
    samples = packed(50, epoch)
    gain, shift = tone.affine(samples, np.arange(4), seed)
    assert gain.shape == shift.shape == (4, 50)
    widths = 0.1 / gain
    levels = (0.5 - shift) * widths - 3276.8
    for drawn, low in ((widths, width), (levels, level)):
        assert low - 1e-6 <= drawn.min() <= drawn.max() <= low + more + 1e-6
        assert more == 0 or np.unique(drawn.round(9)).size > 190  # each view of each image has its own
    assert np.array_equal(tone.affine(samples, np.arange(4)[2:], seed)[0], gain[2:])
    half = Samples(samples.pixels, samples.layout[:7], samples.indices[:7], samples.epochs[:7])
    assert np.array_equal(tone.affine(half, np.arange(4), seed)[0], gain[:, :7])


def packed(count: int, epoch: int = 0) -> Samples:
    images = [torch.zeros(1, 1, 1, dtype=torch.uint16)] * count
    return Samples.pack(images, torch.arange(count), torch.full((count,), epoch))


def test_the_typical_window_is_in_the_middle() -> None:
    tone = HuWindow(np.array([0.1, 1.0]), np.array([32768.0, 1024.0]), (-400, 400), (800, 2000))
    gain, shift = tone.typical(packed(2))
    for hu, expected in ((-700, 0.0), (0, 0.5), (700, 1.0)):
        values = np.array([hu / 0.1 + 32768, hu + 1024])
        assert np.allclose(values * gain + shift, expected)


# -- memory ---------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(numbers=st.lists(st.integers(0, 9), max_size=60), limit=st.integers(0, 50))
def test_the_cache_changes_nothing_and_holds_no_more_than_it_may(numbers: list[int], limit: int) -> None:
    cache, calls = SliceCache(limit), []

    def decode(number: int) -> torch.Tensor:
        calls.append(number)
        return torch.full((number + 1,), number, dtype=torch.uint8)

    for number in numbers:
        assert torch.equal(cache.get(number, decode), torch.full((number + 1,), number, dtype=torch.uint8))
        assert cache.held_bytes <= limit
    assert cache.decoded == len(calls)
    if limit >= 55:
        assert len(calls) == len(set(numbers))


def test_a_neighbour_is_decoded_once(root: Path) -> None:
    dataset = opened(root)
    for index in range(len(dataset)):
        dataset[index]
    assert dataset.cache.decoded == 17
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.cache.decoded == copy.cache.held_bytes == 0
    assert torch.equal(copy[3].int(), dataset[3].int())
    none = opened(root, cache_mib=0)
    assert torch.equal(none[3].int(), dataset[3].int())
    none[3]
    assert none.cache.decoded == 6


# -- the order ------------------------------------------------------------------------------------------------


def test_data_sets_are_drawn_by_the_root_of_their_size(tmp_path: Path) -> None:
    scans = [Scan(f"large{k}", range(40), dataset="large", size=2) for k in range(9)]
    scans += [Scan(f"small{k}", range(10), dataset="small", size=2) for k in range(4)]
    write_ct(tmp_path, scans, (*COLUMNS, "dataset"))
    for temperature, share in ((1.0, 0.9), (2.0, 0.75), (1e9, 0.5)):
        dataset = opened(tmp_path, datasets={}, temperature=temperature)
        order = dataset.order(0, 4)
        _, indices = order.index(np.arange(int(order.visits.sum()) * order.stack * 4))
        counts = np.bincount(dataset.series.dataset[dataset.centres[indices]])
        assert counts[0] / counts.sum() == pytest.approx(share, abs=0.04)


def lanes_of(order: GroupOrder, stacks: int) -> Any:
    """(stacks, lanes, stack) indices of the first stacks of each lane."""
    _, indices = order.index(np.arange(stacks * order.stack * order.lanes))
    return indices.reshape(stacks, order.stack, order.lanes).swapaxes(1, 2)


def test_a_series_shorter_than_a_stack_is_not_repeated_in_it(tmp_path: Path) -> None:
    """Scouts of one slice beside volumes, and a data set of nothing else; by weight as before."""
    scans = [Scan(f"scout{k:02d}", [0], dataset="mixed", size=2) for k in range(9)]
    scans += [Scan(f"volume{k}", range(30), dataset="mixed", size=2) for k in range(6)]
    scans += [Scan(f"zone{k:02d}", [0, 1, 2], dataset="short", size=2) for k in range(21)]
    write_ct(tmp_path, scans, (*COLUMNS, "dataset"))
    dataset = opened(tmp_path, datasets={}, temperature=1.0)
    order = dataset.order(0, 2)
    assert order.stack == 8
    assert sorted(order.sizes.tolist()) == [8, *[9] * 7, *[30] * 5, 31]
    for stack in lanes_of(order, 40).reshape(-1, 8):
        assert len(set(stack.tolist())) == 8
        assert len(set(dataset.series.dataset[dataset.centres[stack]].tolist())) == 1
    _, indices = order.index(np.arange(100 * len(dataset)))
    seen = np.bincount(indices, minlength=len(dataset))
    assert seen.min() > 75
    assert seen.max() < 125


def test_stacks_are_as_long_as_they_are_of_use(tmp_path: Path) -> None:
    write_ct(tmp_path, [Scan(f"s{k:02d}", range(24), size=2) for k in range(12)])
    shared = {(1, 1): 1, (3, 1): 8, (3, 2): 8, (3, 3): 1, (5, 3): 8, (5, 5): 1}
    for (channels, stride), stack in shared.items():
        assert opened(tmp_path, channels, datasets={}, z_stride=stride).order(0, 1).stack == stack
    singles = write_ct(tmp_path / "singles", [Scan(f"s{k:02d}", [0], size=2) for k in range(64)])
    order = opened(singles, datasets={}).order(0, 1)
    assert (order.stack, len(order.sizes)) == (1, 64)


# -- a run ----------------------------------------------------------------------------------------------------


class Watch:
    """A companion that keeps the batches."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    @hookimpl
    def loss_terms(self, run: Any, batch: Batch) -> dict[str, torch.Tensor]:
        self.batches.append(batch)
        return {}


def train(bigrunner: Runner, path: Path, *, config: Any = ENCODINGS, data: Any = None, **options: Any) -> RunResult:
    tables = {"views": CT_VIEWS | options.pop("views", {})} | options
    data = {"path": str(path), "effective_batch": 4, **(data or {})}
    return bigrunner.run("ct-slices", config=config, dataset=False, data=data, **tables)


def tiny_views(**more: Any) -> dict[str, Any]:
    return {"global_size_px": 32, "local_size_px": 16, "local_crops": 2, **more}


class TestContract(PluginContract):
    plugin = "ct-slices"
    dataset = False
    config = ENCODINGS

    @pytest.fixture(autouse=True)
    def _ct(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tables = {"data": {"path": str(root), "effective_batch": 4}, "views": tiny_views(**CT_VIEWS)}
        monkeypatch.setattr(type(self), "tables", tables)


def run_views(**more: Any) -> dict[str, Any]:
    return {"views": tiny_views(**more)}


def test_a_run_sees_windows_and_spacing(bigrunner: Runner, root: Path) -> None:
    watch = Watch()
    result = train(
        bigrunner,
        root,
        steps=2,
        companions=[watch],
        **run_views(mean=[0.0] * 3, std=[1.0] * 3, blur_probability=[0] * 3),
    )
    result.assert_finished()
    for batch in watch.batches:
        crops, spacing = batch.global_crops, batch.global_spacing_mm
        assert crops.min() == 0  # air is below every window
        assert crops.max() > 0.3
        assert spacing is not None
        assert spacing.shape == (8, 3)
        assert set(spacing[:, 2].tolist()) <= {5.0, 2.5}
        assert (spacing[:, :2] <= 0.8 + 1e-6).all()
        assert crops.amax(dim=(1, 2, 3)).unique().numel() > 4  # other windows, other greys


def test_workers_micro_batches_and_memory_change_nothing(bigrunner: Runner, root: Path) -> None:
    plain = train(bigrunner, root, steps=4, **run_views())
    plain.assert_finished()
    for change in (
        {"data": {"workers": 2}},
        {"config": ENCODINGS | {"cache_mib": 0}},
        {"data": {"workers": 3, "prefetch": 1}, "config": ENCODINGS | {"cache_mib": 1}},
    ):
        assert train(bigrunner, root, steps=4, **run_views(), **change).losses == plain.losses
    same = {"model": {"drop_path_fraction": 0.0}}  # which crops skip a branch is drawn for each micro-batch
    whole, parts = (train(bigrunner, root, steps=4, accumulate=k, **run_views(), **same) for k in (1, 4))
    assert parts.losses == pytest.approx(whole.losses, rel=1e-5)


@pytest.mark.slow
def test_an_export_has_no_processor_that_would_divide_hounsfield_units_by_255(
    bigrunner: Runner, root: Path, tmp_path: Path
) -> None:
    result = train(bigrunner, root, steps=1, **run_views())
    result.assert_finished()
    folder = export_checkpoint(result.directory, "transformers", tmp_path / "out")
    assert not (folder / "preprocessor_config.json").exists()
    card = (folder / "README.md").read_text()
    assert "There is no processor of images" in card
    assert "CT in Hounsfield units: -700 HU becomes 0 and 700 HU becomes 1" in card


def test_somebody_elses_data_set_keeps_its_own_tone(bigrunner: Runner, root: Path) -> None:
    result = bigrunner.run("ct-slices", config={}, steps=1)
    result.assert_finished()
    assert result.run is not None
    assert isinstance(result.run.views.tone, FullRange)


@pytest.mark.parametrize("option", ["z_stride", "stack_slices", "temperature", "hu_slope"])
def test_a_continued_run_has_the_same_slices_in_the_same_order(bigrunner: Runner, root: Path, option: str) -> None:
    first = train(bigrunner, root, steps=2, **run_views())
    changed = {**ENCODINGS, option: {"z_stride": 1, "stack_slices": 2, "temperature": 3.0, "hu_slope": 0.2}[option]}
    more = train(
        bigrunner, root, config={**changed, "check_hu": False}, steps=3, directory=first.directory, **run_views()
    )
    if option == "z_stride":
        more.assert_finished()
        return
    assert isinstance(more.error, RunDirectoryError)
    assert f"plugins.ct-slices.{option}" in str(more.error)


@pytest.mark.slow
def test_a_run_is_not_continued_on_other_slices(bigrunner: Runner, tmp_path: Path) -> None:
    table = two_data_sets(tmp_path / "ct") / "index.csv"
    header, *rows = table.read_text(encoding="utf-8").splitlines()
    first = train(bigrunner, table.parent, steps=1, **run_views())
    first.assert_finished()

    def go_on(lines: list[str]) -> RunResult:
        table.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
        return train(bigrunner, table.parent, steps=2, directory=first.directory, **run_views())

    swapped = rows[0].split(",")[0], rows[1].split(",")[0]
    assert swapped == ("a/one/000.png", "a/one/001.png")
    other = {
        "png_path": [rows[0].replace(*swapped), rows[1].replace(*swapped[::-1]), *rows[2:]],
        "series_dir": [row.replace(",a/one,", ",a/other,") for row in rows],
        "slice_index": [rows[0].replace(",a/one,0,", ",a/one,-1,"), *rows[1:]],
        "dataset": [row.replace(",tenth,", ",ninth,") for row in rows],
        "spacing": [rows[0].replace(",5.0,", ",4.0,"), *rows[1:]],
    }
    for column, lines in other.items():
        assert lines != rows
        more = go_on(lines)
        assert isinstance(more.error, RunDirectoryError)
        assert "begun with other slices" in str(more.error)
        assert f"  index.csv: other values of {column}\n" in str(more.error)
        assert str(more.error).count("other values") == 1
    go_on(rows[::-1]).assert_finished()  # it is the slices that count
    (tmp_path / "ct.toml").write_text(f"[data]\npath = '{table.parent}'\n[plugins.ct-slices]\ncheck_hu = false\n")
    warm.bigrun(tmp_path, "data", "pack", "ct.toml", "packed", "--workers", "1").check_returncode()
    table.parent.rename(tmp_path / "plain")
    (tmp_path / "packed").rename(table.parent)
    train(bigrunner, table.parent, steps=3, directory=first.directory, **run_views()).assert_finished()


def test_another_number_of_slices_is_judged_by_the_engine_alone(bigrunner: Runner, tmp_path: Path) -> None:
    table = two_data_sets(tmp_path / "ct") / "index.csv"
    first = train(bigrunner, table.parent, steps=1, **run_views())
    table.write_text(table.read_text(encoding="utf-8").rpartition("b/four")[0].rpartition("\n")[0] + "\n", "utf-8")
    tables = {"data": {"path": str(table.parent), "effective_batch": 4}, "views": CT_VIEWS | tiny_views()}
    document = bigrunner.document({"ct-slices": ENCODINGS}, steps=2, **tables)
    with pytest.raises(RunDirectoryError, match=r"--allow-change data\.images"):
        run_training(document, first.directory)
    _, code = run_training(document, first.directory, allowed_changes=["data.images"])
    assert code == 0


@pytest.mark.parametrize("scouts", [False, True])
def test_a_checkpoint_of_the_first_version_goes_on(
    bigrunner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scouts: bool
) -> None:
    """Which says when its order is another from here on."""
    write_ct(tmp_path / "ct", [Scan(f"s{k}", range(1 if k < 2 and scouts else 9)) for k in range(10)])
    plain = CtSlices.state_dict
    options: dict[str, Any] = {"config": {}, "data": {"effective_batch": 1, "micro_batch": 1}, **run_views()}
    with monkeypatch.context() as before:
        before.setattr(CtSlices, "state_version", 1)
        before.setattr(CtSlices, "state_dict", lambda self: {k: v for k, v in plain(self).items() if k != "slices"})
        first = train(bigrunner, tmp_path / "ct", steps=1, **options)
    first.assert_finished()
    more = train(bigrunner, tmp_path / "ct", steps=2, directory=first.directory, **options)
    more.assert_finished()
    said = [event.message for event in more.events if event.kind == "config-changed"]
    assert any("in another order" in message for message in said) == scouts
    again = train(bigrunner, tmp_path / "ct", steps=3, directory=first.directory, **options)
    again.assert_finished()
    assert not any("in another order" in event.message for event in again.events)
    assert again.run is not None
    joined = "8 series (10, of which those of fewer than 8 slices are joined)" in "\n".join(again.run.header)
    assert joined == scouts


@pytest.mark.parametrize(
    ("config", "model", "message"),
    [
        ({"datasets": {"wole": {"hu_slope": 1.0}}}, {}, "plugins.ct-slices.datasets.wole: no such data set"),
        ({"datasets": {"whole": {"slope": 1.0}}}, {}, "plugins.ct-slices.datasets.whole.slope: unknown option"),
        ({"datasets": {"whole": {"hu_slope": 0.0}}}, {}, "datasets.whole.hu_slope: expected any number but 0"),
        ({"datasets": {"whole": 3}}, {}, "plugins.ct-slices.datasets.whole: expected a table, got 3"),
        ({"datasets": 3}, {}, "plugins.ct-slices.datasets: expected a table, got 3"),
        ({"window_width_hu": [0.0, 5.0]}, {}, "window_width_hu: expected widths above 0"),
        ({"window_level_hu": [5.0, 0.0]}, {}, "window_level_hu: expected two ascending values"),
        ({}, {"in_channels": 2}, "model.in_channels: expected 1 (a slice), 3"),
    ],
)
def test_what_cannot_be_is_refused(bigrunner: Runner, root: Path, config: Any, model: Any, message: str) -> None:
    channels = model.get("in_channels", 3)
    views = run_views(mean=[0.5] * channels, std=[0.25] * channels)
    result = train(bigrunner, root, config=config, model=model, **views)
    assert isinstance(result.error, UsageError)
    assert message in str(result.error)
    assert not result.directory.exists()


def test_without_a_table_there_are_no_slices(bigrunner: Runner, tmp_path: Path) -> None:
    result = train(bigrunner, tmp_path, config={}, **run_views())
    assert isinstance(result.error, NoImagesError)
    assert "index.csv: no such file" in str(result.error)


def test_the_configuration_comes_back(bigrunner: Runner, root: Path) -> None:
    """Tables within a plugin's table are written and read like any other."""
    result = train(bigrunner, root, steps=1, **run_views())
    assert result.run is not None
    options = result.run.config.plugins["ct-slices"]
    assert options.datasets == {"whole": Encoding(hu_slope=1.0, hu_offset=1024.0)}
    text = (result.directory / "config.toml").read_text(encoding="utf-8")
    assert "[plugins.ct-slices.datasets.whole]\nhu_slope = 1.0\nhu_offset = 1024.0" in text
    assert attrs.evolve(options, datasets={}) == CtConfig(datasets={})


def test_the_header_says_how_diverse_a_batch_is(bigrunner: Runner, root: Path) -> None:
    result = train(bigrunner, root, steps=1, data={"effective_batch": 8}, **run_views(colour_probability=0.5))
    assert result.run is not None
    header = "\n".join(result.run.header)
    assert "images       17 slices of 4 series; tenth 12, whole 5; 1 gap in series" in header
    assert "order        each batch has of each of 4 series at most 2 slices: there are fewer series" in header
    assert "warning      views.colour_probability: made for photographs" in header


def test_body_and_air_have_their_values() -> None:
    hu = body_hu(Scan("s", [0]), 0)
    assert set(np.unique(hu)) == {-1000.0, -850.0, 40.0}


# -- what is refused ------------------------------------------------------------------------------------------


def test_hu_that_are_none_refuse_the_start(bigrunner: Runner, root: Path) -> None:
    """The default encoding, where one of two data sets has another."""
    result = train(bigrunner, root, config={}, **run_views())
    assert result.exit_code == 2
    message = str(result.error)
    assert "data set 'whole': 5 of 5 slices that were looked at do not have the values of a body in air" in message
    assert "the 1st percentile of b/four/005.png is -327" in message
    assert "expected -1100 to -800" in message
    assert "hu_slope = 1, hu_offset = 1024" in message
    assert "[plugins.ct-slices.datasets.whole]" in message
    assert "'tenth'" not in message
    assert not result.directory.exists()


@pytest.mark.parametrize(
    ("config", "data"),
    [
        ({"datasets": {"whole": {"check_hu": False}}}, {}),
        ({"check_hu": False}, {}),
        ({}, {"accept_findings": ["hu-range"]}),
    ],
)
def test_the_check_can_be_overridden(bigrunner: Runner, root: Path, config: Any, data: Any) -> None:
    train(bigrunner, root, config=config, data=data, steps=1, **run_views()).assert_finished()


def test_values_that_fit_no_usual_encoding_say_so(tmp_path: Path) -> None:
    write_ct(tmp_path, [Scan("s", range(3), slope=0.3, offset=12000)])
    (finding,) = opened(tmp_path, datasets={}).problems()
    assert finding.refuses
    assert "None of the usual slopes and offsets fits" in finding.message
    assert list(opened(tmp_path, datasets={}, hu_slope=0.3, hu_offset=12000.0).problems()) == []


def test_series_of_another_slope_do_not_hide_behind_right_ones(tmp_path: Path) -> None:
    """A tenth of a unit is read where whole ones are stored: air at -100 HU, beside air at -1000 HU."""
    write_ct(tmp_path, [Scan(f"s{k}", range(8), slope=1.0 if k == 3 else 0.1) for k in range(4)])
    (finding,) = opened(tmp_path, datasets={}).problems()
    assert finding.refuses
    assert finding.message.startswith("the slices: 4 of 16 slices that were looked at do not have the values of")
    assert "the 1st percentile of s3/001.png is -100 HU, expected -1100 to -800" in finding.message
    assert "These would fit: hu_slope = 1, hu_offset = 32768. The others are right" in finding.message
    assert "[plugins.ct-slices.datasets.NAME]" in finding.message
    (finding,) = opened(tmp_path, datasets={}, hu_slope=1.0).problems()  # as if the majority were wrong
    assert "12 of 16 slices" in finding.message
    assert "the 1st percentile of s0/000.png is -10" in finding.message
    assert "These would fit: hu_slope = 0.1, hu_offset = 32768. " in finding.message
    write_ct(tmp_path, [Scan(f"s{k}", range(8), slope=0.3) for k in range(2)])
    assert list(opened(tmp_path, datasets={}, hu_slope=0.3).problems()) == []


def test_slices_without_air_say_nothing(tmp_path: Path) -> None:
    """A small field of view in a body: fat of -100 HU, which would be air at the other slope, and organs of 50 HU."""
    write_ct(tmp_path, [Scan(f"s{k}", range(8)) for k in range(4)])
    inside = np.full((32, 32), 50.0)
    inside[:6] = -100.0
    for path in sorted(tmp_path.glob("s*/*.png"))[:24]:
        Image.fromarray(encode(inside, 0.1, 32768)).save(path)
    assert list(opened(tmp_path, datasets={}).problems()) == []
    for path in tmp_path.glob("s*/*.png"):
        Image.fromarray(encode(inside, 0.1, 32768)).save(path)
    (finding,) = opened(tmp_path, datasets={}).problems()
    assert "16 of 16 slices" in finding.message
    assert "check_hu = false in [plugins.ct-slices] if the values are as they should be" in finding.message


def test_gaps_and_other_sizes_are_told_and_refuse_nothing(tmp_path: Path) -> None:
    write_ct(tmp_path, [Scan("s", [0, 1, 2, 5, 6])])
    Image.fromarray(np.full((16, 16), 22768, dtype=np.uint16)).save(tmp_path / "s/001.png")
    gaps, sizes = opened(tmp_path, datasets={}).problems()
    assert (gaps.kind, sizes.kind) == ("slice-gaps", "neighbour-size")
    assert gaps.message.startswith("1 gap in series")
    assert sizes.message.startswith("the slices: 4 neighbours of 5 slices")
    assert [finding.refuses for finding in (gaps, sizes)] == [False, False]


def test_it_says_what_its_values_mean(root: Path) -> None:
    dataset = opened(root)
    one, other = dataset.intensity("tenth"), dataset.intensity("whole")
    assert one is not None
    assert other is not None
    assert (one.unit, one.slope, one.offset) == ("HU", 0.1, 32768.0)
    assert (other.slope, other.offset) == (1.0, 1024.0)
    assert dataset.intensity("none") is None


def test_a_split_trains_on_no_slice_of_a_validation_patient(bigrunner: Runner, root: Path, tmp_path: Path) -> None:
    preset = tmp_path / "ct.toml"
    preset.write_text(f"""
[data]
path = "{root}"
[plugins.ct-slices.datasets.whole]
hu_slope = 1.0
hu_offset = 1024.0
""")
    warm.bigrun(tmp_path, "data", "split", "ct.toml", "--out", "split.json", "--fraction", "0.3").check_returncode()
    result = train(bigrunner, root, steps=1, data={"split": str(tmp_path / "split.json")}, **run_views())
    result.assert_finished()
    assert result.run is not None
    training, validation = result.run.dataset, result.run.validation
    assert isinstance(training, SliceDataset)
    assert isinstance(validation, SliceDataset)
    assert len(training) + len(validation) == 17
    assert not set(training.groups("patient").tolist()) & set(validation.groups("patient").tolist())


def test_broken_slices_stop_no_run_and_a_warning_names_a_cache_that_is_too_small(
    bigrunner: Runner, tmp_path: Path
) -> None:
    """In stacks of two, for a batch of one: 16 samples on 8 lanes."""
    write_ct(tmp_path, [Scan(f"s{k}", range(4), size=400) for k in range(4)])
    (tmp_path / "s2/001.png").write_bytes(b"")
    options: dict[str, Any] = {"steps": 1, **run_views()}
    data = {"effective_batch": 1, "micro_batch": 1, "max_bad_fraction": 0.5}
    result = train(bigrunner, tmp_path, config={"cache_mib": 1}, data=data, **options)
    result.assert_finished()
    assert result.run is not None
    header = "\n".join(result.run.header)
    assert "2 neighbours follow each other on a lane" in header
    assert (
        "plugins.ct-slices.cache_mib = 1: slices are decoded more than once; about 5 MiB in each of 1 workers" in header
    )
    (tmp_path / "s0/000.png").write_bytes(b"")  # the one that is looked at for its size
    train(bigrunner, tmp_path, config={"cache_mib": 1}, data=data, **options).assert_finished()
    options = {"steps": 1, "model": {"in_channels": 1}, **run_views(mean=[0.5], std=[0.25])}
    alone = train(bigrunner, tmp_path, config={"cache_mib": 1}, data=data, **options)
    assert alone.run is not None
    header = "\n".join(alone.run.header)
    assert "one slice; no stacks" in header  # none is needed twice
    assert "cache_mib = 1:" not in header


@pytest.mark.slow
def test_a_packed_ct_is_the_same(bigrunner: Runner, root: Path, tmp_path: Path) -> None:
    (tmp_path / "ct.toml").write_text(f"""
[data]
path = "{root}"
[plugins.ct-slices.datasets.whole]
hu_slope = 1.0
hu_offset = 1024.0
""")
    warm.bigrun(tmp_path, "data", "pack", "ct.toml", "packed", "--workers", "1").check_returncode()
    assert not (tmp_path / "packed/index.csv").exists()
    packed, plain = (train(bigrunner, path, steps=2, **run_views()) for path in (tmp_path / "packed", root))
    plain.assert_finished()
    assert packed.losses == plain.losses
    assert packed.run is not None
    assert packed.run.dataset.levels == ("patient", "series")


def test_the_model_card_says_what_to_do_to_hu(bigrunner: Runner, root: Path) -> None:
    result = train(bigrunner, root, steps=1, **run_views())
    assert result.run is not None
    folder = export_checkpoint(result.run.checkpoints.path(1), "safetensors", result.directory / "export")
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "-700 HU becomes 0 and 700 HU becomes 1" in card
    assert "divided by 255" not in card
    plain = bigrunner.run(steps=1)
    assert plain.run is not None
    folder = export_checkpoint(plain.run.checkpoints.path(1), "safetensors", plain.directory / "export")
    assert "values in [0, 1] (8 bits: divided by 255, 16 bits: by 65535)" in (folder / "README.md").read_text()
