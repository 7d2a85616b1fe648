"""The model card, README.md: what the weights are, from what they came, how to load them, what was measured."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from bigrun.checkpoint.disk import hash_file
from bigrun.checkpoint.layout import MANIFEST
from bigrun.redaction import Redactor
from bigrun.terminal import printable
from bigrun.version import __version__

if TYPE_CHECKING:
    from bigrun.export.source import Source
    from bigrun.export.target import Target
    from bigrun.export.verify import Verdict

__all__ = ["model_card", "without_places"]


def model_card(target: Target, source: Source, verdict: Verdict, folder: Path) -> str:
    """Markdown; `folder` has the other files of the export."""
    sections = [
        heading(target, source),
        f"## Load it\n\nIn the folder of this file:\n\n```python\n{usage(target, source)}\n```",
        target.notes(source),
        input_section(source),
        f"## Verification\n\n{sentence(str(verdict))}",
        f"## Data\n\n{data(source)}",
        recipe(source),
        provenance(source, folder),
        licence(source),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def heading(target: Target, source: Source) -> str:
    model = source.model
    return (
        f"---\nlibrary_name: {target.package}\ntags:\n- image-feature-extraction\n- self-supervised\n- bigrun\n---\n\n"
        f"# Vision transformer after {source.step:,} steps\n\n"
        f"The teacher's backbone of a self-supervised run: width {model.width}, depth {model.depth}, "
        f"{model.heads} heads, {model.ffn} of {model.ffn_hidden}, patches of {model.patch_size_px} pixels, "
        f"{model.storage_tokens} storage tokens; {source.parameters:,} parameters in fp32. It has no head: an image "
        f"becomes a class token and one token for each patch, each of {model.width} numbers."
    )


def usage(target: Target, source: Source) -> str:
    """The target's own lines, with images where they are needed."""
    before, found, after = target.usage(source).partition("with torch.no_grad():")
    shape = f"(1, {source.model.in_channels}, {source.size}, {source.size})"
    return f"{before}images = torch.zeros{shape}  # normalised as below\n{found}{after}"


def input_section(source: Source) -> str:
    views, patch = source.views, source.model.patch_size_px
    sizes = " and ".join(str(size) for size in sorted({size for size, _ in views.pairs}))
    return (
        f"## Input\n\nFloat (n, {source.model.in_channels}, H, W): values in [0, 1] ({source.tone}), minus the mean, "
        f"divided by the standard deviation of each channel. Trained on crops of {sizes} pixels a side; any sides that "
        f"are multiples of {patch} will do.\n\n"
        f"| | |\n|---|---|\n| mean | {numbers(views.mean)} |\n| standard deviation | {numbers(views.std)} |\n"
        "| resizing | bicubic, antialiased |"
    )


def data(source: Source) -> str:
    images, seen = source.facts["images"], source.facts["position"]
    origin = f"the folder {quoted(without_places(source.data.path))}" if source.data.path else "a plugin's data set"
    plugins = ", ".join(map(quoted, source.tables.get("plugins", {}))) or "none"
    return (
        f"{images:,} images of {origin}, without labels; {seen:,} were seen, {seen / max(images, 1):,.1f} epochs. "
        f"Active plugins: {plugins}."
    )


def recipe(source: Source) -> str:
    """The resolved configuration."""
    total = source.run.max_steps
    steps = f"{source.step:,} of {total:,} optimizer steps" if total else f"{source.step:,} optimizer steps, no end set"
    return (
        f"## Recipe\n\nDINOv3-style self-distillation; {steps}, {source.data.effective_batch} images per step. "
        "All options, resolved; of paths only the last part:\n\n"
        f"```toml\n{tomli_w.dumps(without_places(Redactor([]).value(source.tables))).strip()}\n```"
    )


def without_places(value: Any) -> Any:
    """A configuration in which a path is only its last part: folders have the names of hospitals and patients."""
    if isinstance(value, dict):
        return {key: without_places(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_places(item) for item in value]
    if isinstance(value, str) and ("/" in value or "\\" in value):
        return value.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return value


def quoted(name: str) -> str:
    """A name as Markdown's code: whatever it holds is shown, and is neither Markdown nor HTML."""
    shown = printable(Redactor([]).text(name)).translate({ord("`"): "'", ord("\n"): " "})
    return f"`{shown}`"


def provenance(source: Source, folder: Path) -> str:
    versions = source.facts["versions"]
    rows = [
        ("checkpoint", f"step {source.step:,}, saved {source.manifest.created_utc}"),
        (f"sha256 of its {MANIFEST}", f"`{source.manifest_sha256}`"),
        ("sha256 of its configuration", f"`{source.manifest.config_sha256}`"),
        ("seed", str(source.run.seed)),
        ("trained with", f"bigrun {versions['bigrun']}, torch {versions['torch']}"),
        ("exported with", f"bigrun {__version__}, {datetime.now(UTC).isoformat(timespec='seconds')}"),
        *((f"sha256 of `{path.name}`", f"`{hash_file(path)}`") for path in sorted(folder.glob("*.safetensors"))),
    ]
    return "## Provenance\n\n| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows)


def licence(source: Source) -> str:
    start = source.tables.get("init", {}).get("path")
    before = f" Training began from {quoted(without_places(start))}, whose licence goes on to apply." if start else ""
    return (
        "## Licence\n\nThe weights belong to whoever trained them, who decides how they may be used; the images they "
        f"were trained on may bind that decision.{before} bigrun, which trained and exported them, is Apache-2.0."
    )


def numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
