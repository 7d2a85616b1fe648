"""The section of the health report: the newest pictures, and in words what their numbers say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigrun_pictures.kept import Kept

if TYPE_CHECKING:
    from bigrun_pictures.kept import KeptLook

__all__ = ["section"]

MOST_STRIPS = 4


def section(folder: Path, run_directory: Path) -> dict[str, Any]:
    """`title`, `status`, `lines`, `curves` and `pictures`, from what is kept in the folder, so that it is there right
    after a resume too.

    `status` is warn where an image could not be read. Attention and colours are to be looked at: no number of theirs
    tells a healthy network from an ill one by itself.
    """
    looks = Kept(folder).looks()
    if not looks:
        return {"title": "Attention and patch features", "status": "ok", "lines": ["nothing is drawn yet"]}
    newest = looks[-1]
    return {
        "title": "Attention and patch features",
        "status": "warn" if newest.facts["missing"] else "ok",
        "lines": list(lines(looks)),
        "curves": [
            {
                "title": "Evenness of the class token's attention",
                "unit": "1: all patches alike",
                "metrics": [f"attention/entropy/block_{block}" for block in newest.facts["blocks"]],
                "scale": "linear",
            }
        ],
        "pictures": list(pictures(newest, folder, run_directory)),
    }


def lines(looks: list[KeptLook]) -> Iterator[str]:
    """What is seen, in words."""
    first, facts = looks[0], looks[-1].facts
    entropy, share = facts["entropies"][-1], facts["prefix_shares"][-1]
    since = "" if first is looks[-1] else f"; at step {first.step:,} it was {first.facts['entropies'][-1]:.2f}"
    yield (
        f"step {looks[-1].step:,}: the attention of block {facts['blocks'][-1]} of {facts['depth']} is {entropy:.2f} "
        f"as even as can be (1: to all patches alike){since}; {share:.1%} of it goes to class and storage tokens"
    )
    for name, difference in facts["differences"].items():
        yield f"teacher and {name}: cosines of patches differ by {difference:.3f} in the mean"
    for name in facts["missing"]:
        yield f"{name} cannot be read: it is not in the pictures"


def pictures(newest: KeptLook, folder: Path, run_directory: Path) -> Iterator[dict[str, str]]:
    """The sheet of the newest step, and the strips of the first images; those that are there."""
    sheet = f"step {newest.step:,}: image, attention, patch features as colours, cosine to the marked patch"
    found = {folder / f"step_{newest.step:09d}.png": sheet}
    for position in sorted(newest.tiles)[:MOST_STRIPS]:
        name = newest.facts["names"].get(str(position), "")
        found[folder / f"strip-{position}.png"] = f"image {position} over time: {name}"
    for path, caption in found.items():
        if path.is_file():
            yield {"path": path.relative_to(run_directory).as_posix(), "caption": caption}
