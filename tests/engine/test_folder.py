from __future__ import annotations

import os
import resource
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from disks import unreadable
from PIL import Image

from bigrun.data.faults import BadImageError
from bigrun.data.folder import ImageFolder
from bigrun.data.search import find_images
from bigrun.errors import DataError, NoImagesError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
RGBA = RNG.integers(0, 256, (5, 7, 4), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (5, 7), dtype=np.uint16)


def decoded(path: Path, image: Image.Image, **options: object) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    image.save(path, **options)
    result: np.ndarray[tuple[int, ...], np.dtype[np.generic]] = ImageFolder([path])[0].numpy()
    return result


def test_search_finds_images_by_content_in_path_order(tmp_path: Path) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    image = Image.fromarray(RGB)
    saved = {
        "b/c/scan": "PNG",
        "b/photo.txt": "JPEG",
        "a.tif": "TIFF",
        "z.bmp": "BMP",
        "y.gif": "GIF",
        "x.webp": "WEBP",
    }
    for name, form in saved.items():
        image.save(tmp_path / name, format=form)
    (tmp_path / "page.jpg").write_text("<html>no picture</html>")
    (tmp_path / "empty.png").touch()
    (tmp_path / "BMW.txt").write_text("BMW is no bitmap")
    folder = ImageFolder.search(tmp_path)
    assert folder.paths == sorted(str(tmp_path / name) for name in saved)
    assert len(folder) == 6
    assert [Path(path).name for path in folder.others] == ["BMW.txt"]
    faults = {Path(fault.path).name: fault.cause for fault in folder.files.faults}
    assert faults == {"empty.png": "empty", "page.jpg": "not-an-image"}
    assert all(folder[i].shape == (3, 5, 7) for i in range(6))


def test_search_follows_links_but_no_loop(tmp_path: Path) -> None:
    elsewhere, root = tmp_path / "elsewhere", tmp_path / "root"
    for folder in (elsewhere, root / "sub"):
        folder.mkdir(parents=True)
        Image.fromarray(GREY).save(folder / "i.png")
    (root / "sub" / "up").symlink_to(root)
    (root / "linked").symlink_to(elsewhere)
    (root / "file.png").symlink_to(elsewhere / "i.png")
    (root / "broken.png").symlink_to(root / "nowhere")
    (root / "itself.png").symlink_to(root / "itself.png")
    (root / "other").symlink_to(root / "nowhere")
    folder = ImageFolder.search(root)
    names = [str(Path(path).relative_to(root)) for path in folder.paths]
    assert names == ["file.png", "linked/i.png", "sub/i.png"]
    faults = {Path(fault.path).name: (fault.cause, fault.message) for fault in folder.files.faults}
    assert faults == {
        "broken.png": ("missing", f"a symbolic link to {root / 'nowhere'}, which is not there"),
        "itself.png": ("missing", "a symbolic link that leads back to itself"),
    }


def test_what_is_no_file_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder.png").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.jpg"))
    Image.fromarray(GREY).save(tmp_path / "i.png")
    folder = ImageFolder.search(tmp_path)
    assert len(folder) == 1
    assert {(Path(fault.path).name, fault.cause) for fault in folder.files.faults} == {
        ("pipe.png", "not-a-file"),
        ("socket.jpg", "not-a-file"),
    }
    for name, kind in {"pipe.png": "pipe", "folder.png": "directory", "socket.jpg": "socket"}.items():
        with pytest.raises(BadImageError, match=rf"{name}: a {kind}.*expected a file") as caught:
            ImageFolder([tmp_path / name])[0]
        assert caught.value.cause == "not-a-file"
    with pytest.raises(BadImageError, match="/dev/null: a device"):
        ImageFolder(["/dev/null"])[0]


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that nobody can read, root neither")
def test_one_unreadable_file_does_not_stop_the_search(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "i.png")
    (tmp_path / "sick.png").symlink_to("/proc/self/mem")  # reads of its first page are I/O errors
    folder = ImageFolder.search(tmp_path)
    assert len(folder) == 1
    (fault,) = folder.files.faults
    assert fault.cause == "unreadable"
    with pytest.raises(BadImageError, match=r"sick\.png: cannot be read \(Input/output error\)"):
        raise fault


def test_a_file_that_may_not_be_read_is_a_fault_and_a_folder_is_none(tmp_path: Path) -> None:
    """One file is one image less; how many a folder has nobody knows."""
    Image.fromarray(GREY).save(tmp_path / "i.png")
    Image.fromarray(GREY).save(tmp_path / "closed.png")
    (tmp_path / "closed").mkdir()
    with unreadable(tmp_path / "closed.png"), unreadable(tmp_path / "closed"):
        found = find_images(str(tmp_path))
    assert [Path(path).name for path in found.images] == ["i.png"]
    assert [(Path(fault.path).name, fault.cause) for fault in found.faults] == [("closed.png", "unreadable")]
    assert list(found.closed) == [str(tmp_path / "closed")]
    assert "Permission denied" in found.closed[str(tmp_path / "closed")]


def test_hidden_files_and_other_files_are_left_alone(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "i.png")
    Image.fromarray(GREY).save(tmp_path / ".hidden.png")
    (tmp_path / "._i.png").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        ")
    (tmp_path / "labels.csv").touch()
    np.save(tmp_path / "features.npy", np.zeros(5, np.float32))
    folder = ImageFolder.search(tmp_path)
    assert [Path(path).name for path in folder.paths] == [".hidden.png", "i.png"]
    assert [Path(path).name for path in folder.others] == ["._i.png", "features.npy", "labels.csv"]
    assert folder.files.faults == ()


def test_missing_and_empty_folders_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such folder.*data\.path"):
        ImageFolder.search(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(NoImagesError, match=r"no images among 1 files; expected .*PNG.*data\.path"):
        ImageFolder.search(tmp_path)
    (tmp_path / "i.png").touch()
    with pytest.raises(NoImagesError, match=r"no images among 2 files; (.|\n)*i\.png: empty(.|\n)*check data\.path"):
        ImageFolder.search(tmp_path)


def test_eight_bit_modes_keep_their_values(tmp_path: Path) -> None:
    assert (decoded(tmp_path / "l.png", Image.fromarray(GREY)) == GREY[None]).all()
    rgb = decoded(tmp_path / "rgb.png", Image.fromarray(RGB))
    assert rgb.dtype == np.uint8
    assert (rgb == RGB.transpose(2, 0, 1)).all()
    bits = GREY > 127
    assert (decoded(tmp_path / "1.png", Image.fromarray(bits)) == np.where(bits, 255, 0)).all()
    palette = Image.fromarray(RGB).quantize(8)
    assert (decoded(tmp_path / "p.png", palette) == np.asarray(palette.convert("RGB")).transpose(2, 0, 1)).all()
    cmyk = Image.fromarray(RGB).convert("CMYK")
    assert (decoded(tmp_path / "c.tif", cmyk) == np.asarray(cmyk.convert("RGB")).transpose(2, 0, 1)).all()


def test_transparent_parts_become_white(tmp_path: Path) -> None:
    alpha = RGBA[..., 3:] / 255
    expected = RGBA[..., :3] * alpha + 255 * (1 - alpha)
    image = decoded(tmp_path / "rgba.png", Image.fromarray(RGBA))
    assert image.shape == (3, 5, 7)
    assert np.abs(image.astype(float) - expected.transpose(2, 0, 1)).max() < 1
    grey = Image.merge("LA", [Image.fromarray(GREY), Image.new("L", (7, 5), 0)])
    assert decoded(tmp_path / "la.png", grey).tolist() == np.full((1, 5, 7), 255).tolist()
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.putpixel((1, 0), 1)
    assert decoded(tmp_path / "p.png", palette, transparency=0)[:, 0].T.tolist() == [
        [255, 255, 255],
        [10, 20, 30],
    ]


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_sixteen_bit_grey_stays_sixteen_bit(tmp_path: Path, name: str) -> None:
    image = decoded(tmp_path / name, Image.fromarray(DEEP))
    assert image.dtype == np.uint16
    assert (image == DEEP[None]).all()


def test_big_endian_sixteen_bit_tiff_is_read_as_stored(tmp_path: Path) -> None:
    image = decoded(tmp_path / "be.tif", Image.frombytes("I;16B", (7, 5), DEEP.astype(">u2").tobytes()))
    assert (image == DEEP[None]).all()


def test_float_images_stay_float_and_in_range(tmp_path: Path) -> None:
    unit = RNG.random((5, 7), dtype=np.float32)
    image = decoded(tmp_path / "f.tif", Image.fromarray(unit))
    assert image.dtype == np.float32
    assert (image == unit[None]).all()
    with pytest.raises(DataError, match=r"hu\.tif: float image with values from -1000 to 7, expected \[0, 1\]"):
        decoded(tmp_path / "hu.tif", Image.fromarray(np.float32([[-1000, 7]])))
    with pytest.raises(DataError, match="expected"):
        decoded(tmp_path / "nan.tif", Image.fromarray(np.float32([[0, np.nan]])))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = np.array([[0, 64, 128], [255, 255, 255]], dtype=np.uint8)
    inverse = {  # how a camera that notes this orientation stores the upright picture
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: np.transpose,
        6: np.rot90,
        7: lambda a: np.rot90(a, 2).T,
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(inverse(upright)))
    assert decoded(tmp_path / "i.png", stored, exif=exif)[0].tolist() == upright.tolist()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"])
@pytest.mark.parametrize("part", [0.5, 0.9, 0.005])
def test_a_truncated_image_is_named(tmp_path: Path, form: str, part: float) -> None:
    path = tmp_path / "cut"
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path, form)
    path.write_bytes(path.read_bytes()[: max(16, int(path.stat().st_size * part))])
    folder = ImageFolder.search(tmp_path)
    with pytest.raises(BadImageError, match=rf"cut: truncated: the {form} file ends too early") as caught:
        folder[0]
    assert caught.value.cause == "truncated"
    path.unlink()
    with pytest.raises(BadImageError, match=r"cut: no such file \(any more\)") as caught:
        folder[0]
    assert caught.value.cause == "missing"


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate"])
def test_a_truncated_tiff_of_several_pages_is_named(tmp_path: Path, compression: str | None) -> None:
    path = tmp_path / "cut.tif"
    first, *others = [Image.fromarray(RNG.integers(0, 256, (64, 64), dtype=np.uint8)) for _ in range(3)]
    first.save(path, save_all=True, append_images=others, compression=compression)
    assert ImageFolder([path])[0].shape == (3, 64, 64)
    whole = path.read_bytes()
    for part in (0.9, 0.5, 0.1):
        path.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(BadImageError) as caught:
            ImageFolder([path])[0]
        assert caught.value.cause == "truncated", str(caught.value)


def test_damage_is_not_called_truncation(tmp_path: Path) -> None:
    path = tmp_path / "i.png"
    Image.fromarray(RGB).save(path)
    data = bytearray(path.read_bytes())
    data[60] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(BadImageError, match=r"i\.png: damaged") as caught:
        ImageFolder([path])[0]
    assert caught.value.cause == "other"


def bomb(side: int, bits: int, colour: int) -> bytes:
    """A PNG that says that it has side x side pixels, and has a thousand bytes of them."""
    header = struct.pack(">IIBBBBB", side, side, bits, colour, 0, 0, 0)
    chunks = {b"IHDR": header, b"IDAT": zlib.compress(bytes(1000)), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    )


@pytest.mark.parametrize(("side", "bits", "colour"), [(50_000, 8, 2), (9_500, 8, 0), (50_000, 16, 2)])
def test_a_decompression_bomb_is_not_decoded(tmp_path: Path, side: int, bits: int, colour: int) -> None:
    """Above Pillow's limit, above half of it, where it would only warn, and for another library, which has none."""
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(side, bits, colour))
    with pytest.raises(BadImageError, match="bomb") as caught:
        ImageFolder([path])[0]
    assert caught.value.cause == "too-large"


def test_an_array_that_says_it_is_large_is_not_read(tmp_path: Path) -> None:
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (3, 40000, 40000), }"
    path = tmp_path / "bomb.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    with pytest.raises(BadImageError, match=r"3 x 40000 x 40000 = 4,800,000,000 values") as caught:
        ImageFolder([path])[0]
    assert caught.value.cause == "too-large"
    path.write_bytes(path.read_bytes().replace(b"40000", b"   40"))
    with pytest.raises(BadImageError, match="needs 4,800 bytes"):
        ImageFolder([path])[0]


def test_postscript_never_reaches_its_interpreter(tmp_path: Path) -> None:
    path = tmp_path / "i.png"
    Image.fromarray(RGB).save(path, format="EPS")
    with pytest.raises(BadImageError, match="PostScript") as caught:
        ImageFolder([path])[0]
    assert caught.value.cause == "not-an-image"


def test_images_of_other_formats_are_told_by_their_names(tmp_path: Path) -> None:
    """They are not left alone as a text file is: who has half of their photographs in such a format should know."""
    Image.fromarray(RGB).save(tmp_path / "a.png")
    Image.fromarray(RGB).save(tmp_path / "drawing.eps")
    (tmp_path / "photo.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    (tmp_path / "scan.jp2").write_bytes(b"\0\0\0\x0cjP  \r\n" + bytes(100))
    folder = ImageFolder.search(tmp_path)
    faults = {Path(fault.path).name: (fault.cause, fault.message) for fault in folder.files.faults}
    assert {name: cause for name, (cause, _) in faults.items()} == {
        "drawing.eps": "not-an-image", "photo.HEIC": "unsupported", "scan.jp2": "unsupported",
    }  # fmt: skip
    assert "PostScript" in faults["drawing.eps"][1]
    assert "an image that is not read: HEIC or AVIF; convert it" in faults["photo.HEIC"][1]
    assert folder.others == []


def test_exif_data_that_cannot_be_read_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "i.jpg"
    Image.fromarray(GREY).save(path, exif=b"Exif\0\0" + b"broken beyond repair")
    assert ImageFolder([path])[0].shape == (1, 5, 7)


def test_too_many_open_files_is_no_fault_of_a_file(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "i.png")
    folder, before = ImageFolder.search(tmp_path), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        with pytest.raises(OSError, match="Too many open files") as caught:
            folder[0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert not isinstance(caught.value, DataError)
