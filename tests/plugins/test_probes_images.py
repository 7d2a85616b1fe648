"""probes: which images are asked about, where their labels and masks come from, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from PIL import Image
from probe_images import write_masks, write_photos

from bigrun.errors import BigrunError, ConfigError, NoImagesError, UsageError
from bigrun.run import Run
from bigrun.testing.runner import Runner
from bigrun_probes.choice import balanced, queries
from bigrun_probes.config import ProbesConfig
from bigrun_probes.labels import read_table
from bigrun_probes.measure import measured
from bigrun_probes.names import by_place
from bigrun_probes.probe_set import ProbeSet

# -- which ----------------------------------------------------------------------------------------------------

labels_and_names = st.lists(st.sampled_from("abc"), min_size=6, max_size=40).filter(
    lambda labels: len(set(labels)) > 1 and all(labels.count(label) > 1 for label in labels)
)


@settings(deadline=None, max_examples=50)
@given(labels_and_names, st.floats(0.05, 0.95), st.integers(6, 40))
def test_every_class_is_asked_about_and_in_the_gallery(labels: list[str], fraction: float, count: int) -> None:
    order = by_place([f"image {number}" for number in range(len(labels))])
    chosen = balanced(order, list(labels), count)
    assert len(chosen) == len(set(chosen)) == min(count, len(labels))
    sizes = {label: sum(labels[n] == label for n in chosen) for label in set(labels)}
    short = [size for label, size in sizes.items() if size < labels.count(label)]
    assert max(sizes.values()) <= min(short, default=len(labels)) + 1, "classes are as equal as they can be"
    names = [labels[n] for n in chosen]
    if all(names.count(label) > 1 for label in names):
        asked = queries(names, [str(n) for n in chosen], fraction, "here")
        for label in set(names):
            sides = {query for query, name in zip(asked, names, strict=True) if name == label}
            assert sides == {True, False}


def test_the_order_is_of_names_and_not_of_places() -> None:
    names = [f"{number}.png" for number in range(50)]
    order = [names[n] for n in by_place(names)]
    assert [name for n in by_place(names[::-1]) for name in [names[::-1][n]]] == order
    fewer = names[:20] + names[21:]
    assert [fewer[n] for n in by_place(fewer)] == [name for name in order if name != "20.png"]
    assert order not in (names, sorted(names))


def test_what_is_kept_together_is_on_one_side() -> None:
    labels = ["ill", "well"] * 12
    groups = [f"patient {number % 8}" for number in range(24)]  # four of each class
    asked = queries(labels, groups, 0.25, "here")
    assert len({(group, query) for group, query in zip(groups, asked, strict=True)}) == 8
    assert sum(asked) == 6
    with pytest.raises(
        UsageError, match=r"2 of 2 classes are among the queries or in the gallery alone.*'ill', 'well'"
    ):
        queries(labels, labels, 0.25, "here")


# -- a run's own folder ---------------------------------------------------------------------------------------


def open_photos(home: Path) -> Callable[..., Any]:
    """Sets of the photographs in a folder, of a run that has taken a step."""
    write_photos(home / "photos")
    data = {"path": str(home / "photos"), "effective_batch": 4, "workers": 0}
    run = Runner(home).run(steps=1, dataset=False, data=data).run
    assert run is not None

    def of(**options: Any) -> ProbeSet:
        return ProbeSet.of(run, ProbesConfig(**options))

    of.run = run  # type: ignore[attr-defined]
    return of


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    return open_photos(tmp_path_factory.mktemp("opened"))


def labels_by_name(asked: ProbeSet) -> dict[str, str]:
    assert asked.labelled is not None
    described = [Path(asked.images.part.name(index)) for index in asked.images.indices]
    labels = [asked.labelled.classes[number] for number in asked.labelled.labels]
    return {f"{path.parent.name}/{path.name}": label for path, label in zip(described, labels, strict=True)}


def test_the_folder_is_the_label(opened: Callable[..., Any]) -> None:
    asked = opened(labels="folder")
    found = labels_by_name(asked)
    assert len(found) == 24
    assert all(name.startswith(label + "/") for name, label in found.items())
    assert int(asked.labelled.is_query.sum()) == 6
    fewer = opened(labels="folder", images=9)
    assert len(fewer.images.indices) == 9
    assert fewer.identity != asked.identity == opened(labels="folder").identity
    assert opened(labels="folder", k=3).identity != asked.identity


def test_a_table_names_some_and_only_they_are_asked_about(opened: Callable[..., Any], tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    rows = [f'class{c}/{i}.png,"{("even", "odd, <b>")[i % 2]}",x' for c in range(2) for i in range(4)]
    table.write_text("\ufeffPath,Label,other\n" + "\n".join(rows), encoding="utf-8")
    found = labels_by_name(opened(labels_file=str(table)))
    assert len(found) == 8
    assert found["class1/2.png"] == "even"
    assert found["class1/3.png"] == "odd, <b>"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\n../../etc/passwd,a\n", "line 2: .*leaves the folder"),
        ("path,label\n/etc/passwd,a\n", "line 2: .*absolute path"),
        ("path,label\nclass0/0.png,a\nclass0/0.png,b\n", "line 3: class0/0.png is 'b' here and 'a'"),
        ("path,label\nclass0/0.png,\n", "line 2: expected a path and a label"),
        ("path,label\nclass0/0.png\n", "line 2: expected 2 values, got 1"),
        ("file,class\nclass0/0.png,a\n", "expected the first line path,label, got 'file,class'"),
        ("", "expected the first line path,label, got ''"),
        ("path,label\n", "no labels"),
        ("path,label\nnowhere.png,a\nclass0/0.png,b\n", "1 of 2 paths are no image of the data set, .* nowhere.png"),
        ("path,label\nclass0/0.png,a\nclass0/1.png,a\n", "all 2 images are 'a'"),
        ("path,label\nclass0/0.png,a\nclass0/1.png,a\nclass0/2.png,b\n", "1 of 2 classes have one image alone.*'b'"),
        ('path,label\n"class0/0.png,a\n', "no CSV file in UTF-8"),
        ("path,label\nclass0/0.png\0,a\n", "NUL|no CSV file"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_used_says_why(
    opened: Callable[..., Any], tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UsageError, match=rf"(?s)labels.*{message}"):
        opened(labels_file=str(tmp_path / "labels.csv"))


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.csv").write_bytes(bytes(range(256)))
    for path in ("binary.csv", "nowhere.csv", "."):
        with pytest.raises(UsageError, match=r"labels_file|path,label"):
            read_table(tmp_path / path)


def test_a_folder_of_its_own(opened: Callable[..., Any], tmp_path: Path) -> None:
    write_photos(tmp_path / "other", classes=2, each=3)
    asked = opened(path=str(tmp_path / "other"), labels="folder")
    assert len(labels_by_name(asked)) == 6
    assert asked.summary == f"knn, linear, retrieval: 6 images, of {tmp_path / 'other'} in 2 classes, 2 asked about"
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoImagesError, match="empty"):
        opened(path=str(tmp_path / "empty"))
    with pytest.raises(UsageError, match="does not know the patient"):
        opened(labels="patient")


def test_a_class_that_is_one_image_and_too_many_classes_are_refused(opened: Callable[..., Any], tmp_path: Path) -> None:
    write_photos(tmp_path / "single", classes=3, each=1)
    with pytest.raises(UsageError, match=r"3 of 3 classes have one image alone.*'class0'"):
        opened(path=str(tmp_path / "single"), labels="folder")
    with pytest.raises(UsageError, match=r"3 classes, and images = 5: expected at least 6"):
        opened(labels="folder", images=5)


# -- masks ----------------------------------------------------------------------------------------------------


def test_masks_are_cut_as_the_images_are(opened: Callable[..., Any], tmp_path: Path) -> None:
    """44 x 40 pixels: the middle 40 x 40, at 32 x 32, and a square of 20 in its middle becomes one of 16."""
    write_masks(tmp_path / "masks")
    (tmp_path / "masks" / "class0" / "0.png").unlink()
    asked = opened(masks=str(tmp_path / "masks"))
    masked = asked.masked
    assert len(masked.images.indices) == 23
    assert masked.classes == (0, 10, 20, 30)
    assert masked.pixels.shape == (23, 32, 32)
    inside = masked.pixels[:, 8:24, 8:24]
    names = [Path(masked.images.part.name(index)).parent.name for index in masked.images.indices]
    for crop, name in zip(inside, names, strict=True):
        assert crop.unique().tolist() == [int(name[-1]) + 1]
    outside = masked.pixels.clone()
    outside[:, 8:24, 8:24] = 0
    assert set(outside[:, 1:].flatten().tolist()) == {0}
    assert set(outside[:, 0].flatten().tolist()) == {255}
    backbone = opened.run.objective.teacher.backbone.eval()  # type: ignore[attr-defined]
    found = measured(opened.run, backbone, asked, ProbesConfig(masks="x"))  # type: ignore[attr-defined]
    assert 0 <= found["probe/dense_miou"] <= found["probe/dense_pixel_accuracy"] <= 1


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"), "cannot be read"),
        (lambda path: Image.new("RGB", (44, 40)).save(path), "expected 8 bits of grey or a palette, got a PNG of RGB"),
        (lambda path: Image.new("L", (40, 44)).save(path), "40 x 44 pixels, but its image has 44 x 40"),
    ],
)  # fmt: skip
def test_a_mask_that_cannot_be_used_says_why(
    opened: Callable[..., Any], tmp_path: Path, harm: Callable[[Path], None], message: str
) -> None:
    write_masks(tmp_path / "masks")
    harm(tmp_path / "masks" / "class1" / "3.png")
    with pytest.raises(UsageError, match=rf"masks: .*3.png: {message}"):
        opened(masks=str(tmp_path / "masks"))


def test_masks_that_are_not_there_say_where_they_would_be(opened: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        opened(masks=str(tmp_path / "nowhere"))
    (tmp_path / "masks").mkdir()
    with pytest.raises(UsageError, match=r"0 of 24 images has a mask.*as .*masks/class\d/\d.png"):
        opened(masks=str(tmp_path / "masks"))
    write_masks(tmp_path / "one", classes=1)
    for path in (tmp_path / "one" / "class0").iterdir():
        Image.fromarray(np.full((40, 44), 7, np.uint8)).save(path)
    with pytest.raises(UsageError, match="the masks show 1 class"):
        opened(masks=str(tmp_path / "one"))


# -- images that cannot be read -------------------------------------------------------------------------------


def test_images_that_cannot_be_read_any_more_do_not_count(tmp_path: Path) -> None:
    opened = open_photos(tmp_path)
    write_masks(tmp_path / "masks")
    config = ProbesConfig(labels="folder", masks=str(tmp_path / "masks"))
    run: Run = opened.run  # type: ignore[attr-defined]
    asked = ProbeSet.of(run, config)
    backbone = run.objective.teacher.backbone.eval()
    whole = measured(run, backbone, asked, config)
    for path in (tmp_path / "photos" / "class1").glob("[0-4].png"):
        path.write_bytes(b"damaged")
    fewer = measured(run, backbone, asked, config)
    assert fewer.keys() == whole.keys()
    ratio = fewer["probe/retrieval_ratio_to_chance"] / fewer["probe/retrieval_top1"]
    assert ratio == pytest.approx(19)
    for path in (tmp_path / "photos").glob("*/*.png"):
        path.unlink()
    with pytest.raises(BigrunError, match="only 0 of 24 images"):
        measured(run, backbone, asked, config)


# -- options --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"probes": ["knn"]}, "probes"),
        ({"probes": ["dense"]}, "probes"),
        ({"probes": ["knn", "nn"]}, "probes"),
        ({"labels": "diagnosis"}, "labels"),
        ({"labels": "folder", "labels_file": "x.csv"}, "labels"),
        ({"leave_one_out": True}, "leave_one_out"),
        ({"labels": "folder", "leave_one_out": True, "keep_together": "patient"}, "keep_together"),
        ({"dense_images": 10}, "dense_images"),
        ({"temperature": 0.001}, "temperature"),
    ],
)  # fmt: skip
def test_options_that_mean_nothing_are_refused(bigrunner: Runner, options: dict[str, Any], option: str) -> None:
    result = bigrunner.run("probes", config=options)
    assert isinstance(result.error, ConfigError)
    assert [path for path, _ in result.error.problems] == [f"plugins.probes.{option}"]


def test_pixels_alone_know_colours(opened: Callable[..., Any]) -> None:
    config = ProbesConfig(labels="folder")
    found = measured(opened.run, None, opened(labels="folder"), config)  # type: ignore[attr-defined]
    assert found["probe/knn_accuracy"] == found["probe/linear_accuracy"] == 1
    alone = attrs.evolve(config, leave_one_out=True, probes=("knn",))
    assert measured(opened.run, None, opened(labels="folder"), alone) == {"probe/knn_accuracy": 1.0}  # type: ignore[attr-defined]


def test_nothing_is_drawn_and_no_mode_is_left_changed(opened: Callable[..., Any]) -> None:
    run: Run = opened.run  # type: ignore[attr-defined]
    before = torch.get_rng_state()
    first, second = (measured(run, run.objective.teacher.backbone.eval(), opened(), ProbesConfig()) for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), before)
