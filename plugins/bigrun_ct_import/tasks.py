"""What a stack or a volume will be called, and what tells whether it was imported before."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs

from bigrun.errors import UsageError
from bigrun_ct_import.convert import Names, Settings, Task
from bigrun_ct_import.find import Found
from bigrun_ct_import.pseudonyms import Pseudonyms
from bigrun_ct_import.skips import Skip
from bigrun_ct_import.stacks import Stack

__all__ = ["Naming"]

ENDINGS = (".nii.gz", ".nii", ".nrrd")


@attrs.frozen
class Naming:
    """Makes tasks. The attributes are those of `Import`."""

    source: Path
    out: Path
    settings: Settings
    pseudonyms: Pseudonyms
    patient_from: str | None
    keep_names: bool

    def stack_task(self, stack: Stack) -> Task:
        first, of = stack.planes[0], self.pseudonyms.of
        origin = f"{first.series}\n{first.patient}"
        names = Names(of("series", f"{origin}\n{stack.key}"), of("patient", first.patient), of("study", first.study))
        numbers = Counter(plane.image for plane in stack.planes)
        images = []
        for plane in stack.planes:
            held = plane.content.hex()
            name = plane.image if numbers[plane.image] == 1 else f"{plane.image}\n{held}"  # one number for all: broken
            images.append((of("image", name), of("content", f"{held}#{plane.frame}")))
        return self._task(names, stack, of("origin", origin), tuple(images))

    def volume_tasks(self, found: Iterable[tuple[Found, bytes]]) -> Iterator[Task | Skip]:
        """Volumes are called by what their files hold: two files that hold the same are copies.

        Args:
            found: files and their SHA-256.

        Raises:
            UsageError: names that stay are those of several volumes.
        """
        taken: dict[str, tuple[Path, bytes]] = {}
        for each, content in found:
            names = self._names(each.path, content.hex())
            path, held = taken.setdefault(names.series, (each.path, content))
            if held != content:
                raise UsageError(f"{path} and {each.path} would both be {names.series}: rename one")
            if path != each.path:
                yield Skip("copy", (str(each.path),))
                continue
            of = self.pseudonyms.of
            image = (of("place", str(each.path.resolve())), of("content", content.hex()))
            yield self._task(names, each, "", (image,))

    def _names(self, path: Path, content: str) -> Names:
        name = f"volume\n{content}"
        series, study = self.pseudonyms.of("series", name), self.pseudonyms.of("study", name)
        if self.keep_names:
            series = study = plain_name(path.name)
        if self.patient_from is None:
            return Names(series, "", study)
        if self.patient_from == "file":
            return Names(series, series if self.keep_names else self.pseudonyms.of("patient", name), study)
        folder = self._folder(path)
        plain = plain_name(folder) if self.keep_names else self.pseudonyms.of("patient", f"folder\n{folder}")
        return Names(series, plain, study)

    def _folder(self, path: Path) -> str:
        """The folder directly below the source in which a file is; the source, or where it lies, if there is none."""
        root = self.source if self.source.is_dir() else self.source.parent
        place = path.relative_to(root)
        return place.parts[0] if len(place.parts) > 1 else root.resolve().name

    def _task(self, names: Names, source: Stack | Found, origin: str, images: tuple[tuple[str, str], ...]) -> Task:
        settings = self.settings
        how = (settings.dataset, settings.modality, str(settings.encoding), names.study)
        return Task(self.out, names, self.pseudonyms.digest("how", *how), origin, images, settings, source)


def plain_name(name: str) -> str:
    """A file's name without its ending, as the name of a folder."""
    for ending in ENDINGS:
        name = name.removesuffix(ending)
    return re.sub(r"[^A-Za-z0-9._-]|^\.", "_", name) or "_"
