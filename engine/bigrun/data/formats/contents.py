"""What a file is, by its first bytes. Torch-free: a search asks it of every file."""

from __future__ import annotations

import re

__all__ = ["HEAD_BYTES", "IMAGE_SUFFIXES", "NAMES", "cause_of_foreign", "describe_foreign", "kind_of"]

HEAD_BYTES = 256
NAMES = ("BMP", "GIF", "JPEG", "NPY", "PNG", "TIFF", "WEBP")
IMAGE_SUFFIXES = (
    ".avif", ".bmp", ".eps", ".gif", ".heic", ".heif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".jxl", ".png",
    ".tif", ".tiff", ".webp",
)  # fmt: skip
"""Ends of names, in small letters, by which people know images, those of formats that are not read too: who has such
files is told. Not `.npy`: most of those are something else."""

BEGINNINGS = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),  # BigTIFF
    (b"MM\0+", "TIFF"),
    (b"\x93NUMPY", "NPY"),
)
FOREIGN = (
    (b"%!PS", "PostScript (EPS)"),
    (b"\xc5\xd0\xd3\xc6", "PostScript (EPS)"),
    (b"%PDF", "PDF"),
    (b"8BPS", "a Photoshop file"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "gzip"),
    (b"version https://git-lfs", "a pointer of Git LFS: `git lfs pull` brings the image"),
)
# In the header of a NumPy file, a Python literal; Python 2 wrote 3L for 3.
ARRAY = re.compile(rb"[\"']descr[\"']\s*:\s*[\"'](?:\|u1|[<>]u2|[<>]f4)[\"']")
SHAPE = re.compile(rb"[\"']shape[\"']\s*:\s*\(\s*(?:\d+L?\s*,\s*){1,2}\d+L?\s*,?\s*\)")


def kind_of(head: bytes) -> str | None:
    """The format, one of NAMES, of a file that begins with `head` (HEAD_BYTES of it, if it has as many); None for none.

    A NumPy array counts if its type and its dimensions can be those of an image: people keep features in such files.
    """
    for beginning, kind in BEGINNINGS:
        if head.startswith(beginning):
            if kind == "NPY" and not (ARRAY.search(head) and SHAPE.search(head)):
                return None
            return kind
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    return "BMP" if head.startswith(b"BM") and head[6:10] == bytes(4) else None


def cause_of_foreign(foreign: str) -> str:
    """Of a fault: an image of another format, or none. `foreign` is what `describe_foreign` says."""
    return "unsupported" if foreign.startswith(("HEIC", "JPEG", "a NumPy")) else "not-an-image"


def describe_foreign(head: bytes) -> str:
    """What a file that is none of the formats looks like, for a message."""
    for beginning, name in FOREIGN:
        if head.startswith(beginning):
            return name
    if head[4:8] == b"ftyp":
        return "HEIC or AVIF" if head[8:11] in (b"hei", b"hev", b"mif", b"avi", b"msf") else "a film (MP4)"
    if head.startswith(b"\x93NUMPY"):
        return "a NumPy array of another type or number of dimensions than an image's"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "HTML, perhaps the error page of a download"
    if text.startswith((b"<?xml", b"<svg")):
        return "XML or SVG"
    return "unknown content"
