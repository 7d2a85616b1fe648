"""How large an image may be: a small file can say that it is of any size."""

from __future__ import annotations

from PIL import Image

from bigrun.data.faults import BadImageError

__all__ = ["require_size"]

CHANNELS = 4  # as many values per pixel as Pillow's own limit, on pixels, allows


def require_size(path: str, *lengths: int) -> None:
    """Pillow's limit (Image.MAX_IMAGE_PIXELS, 89 million), on what other libraries decode.

    Args:
        lengths: of all axes, channels and pages included.

    Raises:
        BadImageError: "too-large".
    """
    limit, values = Image.MAX_IMAGE_PIXELS, 1
    for length in lengths:
        values *= length
    if limit is not None and values > CHANNELS * limit:
        size = " x ".join(map(str, lengths))
        raise BadImageError(
            path,
            "too-large",
            f"{size} = {values:,} values, over {CHANNELS * limit:,}: a decompression bomb; if not, cut it to tiles",
        )
