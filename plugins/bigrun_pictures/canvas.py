"""A dark sheet with tiles and words, drawn by Pillow."""

from __future__ import annotations

import io
import unicodedata

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

__all__ = ["FAINT", "INK", "PAPER", "Canvas", "plain_text"]

Pixels = npt.NDArray[np.uint8]  # (H, W, 3)

PAPER = (16, 18, 22)
INK = (232, 234, 237)
FAINT = (154, 160, 170)


def plain_text(text: str) -> str:
    """In the letters that Pillow's own font has: accents are left away, what else it lacks is a question mark."""
    letters = unicodedata.normalize("NFKD", text.replace("ß", "ss").replace("µ", "u"))
    return "".join(
        c if " " <= c <= "~" else "?"
        for c in letters
        if not unicodedata.combining(c) and unicodedata.category(c) != "Cf"
    )


class Canvas:
    """Coordinates are pixels from the top left."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width, height), PAPER)
        self._draw = ImageDraw.Draw(self.image)

    def tile(self, left: int, top: int, pixels: Pixels) -> None:
        """Put a picture."""
        self.image.paste(Image.fromarray(pixels), (left, top))

    def frame(self, left: int, top: int, width: int, height: int) -> None:
        """Mark a rectangle so that it is seen on light and dark."""
        for grown, colour in ((2, (0, 0, 0)), (1, (255, 255, 255)), (0, (0, 0, 0))):
            box = left - grown, top - grown, left + width - 1 + grown, top + height - 1 + grown
            self._draw.rectangle(box, outline=colour)

    def text(
        self, left: int, top: int, text: str, size: int = 13, ink: tuple[int, int, int] = INK, width: int | None = None
    ) -> None:
        """One line, cut off where it is wider than `width`."""
        font = ImageFont.load_default(size)
        line = plain_text(text[:400])
        if width is not None and self._draw.textlength(line, font) > width:
            while line and self._draw.textlength(line + "...", font) > width:
                line = line[:-1]
            line += "..."
        self._draw.text((left, top), line, font=font, fill=ink)

    def title(self, left: int, top: int, step: int, about: str) -> None:
        """The step in large letters, and behind it what is shown."""
        words = f"Step {step:,}"
        self.text(left, top, words, 22)
        behind = left + round(self._draw.textlength(words, ImageFont.load_default(22))) + 24
        self.text(behind, top + 7, about, 13, FAINT, self.image.width - behind - left)

    def png(self) -> bytes:
        """The sheet as a PNG file."""
        file = io.BytesIO()
        self.image.save(file, "PNG", compress_level=3)  # 6 takes twice the time for a tenth less
        return file.getvalue()
