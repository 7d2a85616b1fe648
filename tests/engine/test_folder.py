from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bigrun.data.folder import ImageFolder
from bigrun.errors import DataError

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
    names = [str(Path(path).relative_to(root)) for path in ImageFolder.search(root).paths]
    assert names == ["file.png", "linked/i.png", "sub/i.png"]


def test_pipes_are_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    Image.fromarray(GREY).save(tmp_path / "i.png")
    assert len(ImageFolder.search(tmp_path)) == 1
    with pytest.raises(DataError, match=r"pipe\.png: not a file"):
        ImageFolder([tmp_path / "pipe.png"])[0]


def test_missing_and_empty_folders_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such folder.*data\.path"):
        ImageFolder.search(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=r"no images among 1 files; expected .*PNG.*data\.path"):
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


def png_rgb16(path: Path) -> None:
    """Pillow writes no 16-bit colour: a PNG of 2 x 1 pixels by hand."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" + bytes(range(12)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


def test_what_cannot_be_read_without_loss_is_refused(tmp_path: Path) -> None:
    png_rgb16(tmp_path / "rgb16.png")
    with pytest.raises(DataError, match=r"rgb16\.png: 16 bits per colour.*mode RGB.*without loss"):
        ImageFolder([tmp_path / "rgb16.png"])[0]
    with pytest.raises(DataError, match=r"i\.tif: 32-bit integers \(mode I\).*convert"):
        decoded(tmp_path / "i.tif", Image.fromarray(np.int32([[1, 2]])))


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


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    folder = ImageFolder.search(tmp_path)
    with pytest.raises(DataError, match=r"cut\.png: not a readable image \(.*\); repair it, or put another image"):
        folder[0]
    path.unlink()
    with pytest.raises(DataError, match=r"cut\.png: not a file any more"):
        folder[0]


def test_postscript_never_reaches_its_interpreter(tmp_path: Path) -> None:
    path = tmp_path / "i.png"
    Image.fromarray(RGB).save(path, format="EPS")
    with pytest.raises(DataError, match="UnidentifiedImageError"):
        ImageFolder([path])[0]
