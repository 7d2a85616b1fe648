"""An import from the first look at the source to the report."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs

from bigrun.errors import BigrunError, UsageError
from bigrun.parallel import default_workers, in_order
from bigrun.progress import progress
from bigrun_ct_import.convert import Names, Settings, Task, convert
from bigrun_ct_import.find import Found, find
from bigrun_ct_import.planes import Plane, read_planes
from bigrun_ct_import.pseudonyms import Pseudonyms, load_salt
from bigrun_ct_import.report import Report
from bigrun_ct_import.skips import Skip
from bigrun_ct_import.stacks import Stack, stacks_of
from bigrun_ct_import.store import Record, Store, replace_file

__all__ = ["Import"]

REPORT = "import-report.json"
PACKAGES = {
    "dicom": ("pydicom", "DICOM files are read by pydicom"),
    "nifti": ("nibabel", "NIfTI files are read by nibabel"),
    "nrrd": ("nrrd", "NRRD files are read by pynrrd"),
}
HEADERS_AT_ONCE = 64
ENDINGS = (".nii.gz", ".nii", ".nrrd")


@attrs.frozen
class Import:
    """What is to be imported, and how.

    Attributes:
        map_file: where the private map from pseudonyms to files goes; None: nowhere.
        patient_from: what stands for the patient of a NIfTI or NRRD file, `file` or `folder`.
        keep_names: names of NIfTI and NRRD files stay: they are public.
        workers: processes; None: as many as cores, or none for few files.
    """

    source: Path
    out: Path
    settings: Settings
    salt_file: Path
    map_file: Path | None = None
    patient_from: str = "file"
    keep_names: bool = False
    workers: int | None = None

    def run(self) -> Report:
        """Import; what was imported before stays as it is.

        Raises:
            UsageError: source, folder or salt cannot be used, or a package is not installed.
            BigrunError: what was made cannot be written.
        """
        self._require_apart()
        pseudonyms = Pseudonyms(load_salt(self.salt_file, self.out))
        store = Store(self.out)
        try:
            with contextlib.closing(store):
                store.open(pseudonyms.of("salt", "check"))
                return self._fill(store, pseudonyms)
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            raise BigrunError(f"{place}{error.strerror}; the same command goes on where this one stopped") from error

    def _fill(self, store: Store, pseudonyms: Pseudonyms) -> Report:
        found, skips = self._find()
        planes, unread = self._read_headers([str(f.path) for f in found if f.kind == "dicom"])
        stacks = list(stacks_of(planes, self.settings.any_plane))
        skips += [*unread, *(stack for stack in stacks if isinstance(stack, Skip))]
        tasks = [self._stack_task(stack, pseudonyms) for stack in stacks if isinstance(stack, Stack)]
        tasks += self._volume_tasks([f for f in found if f.kind != "dicom"], pseudonyms)
        known = store.records()
        new = [task for task in tasks if not is_done(task, known.get(task.names.series))]
        made: set[str] = set()
        with progress("importing", len(new)) as advance:
            for record, left in in_order(convert, new, self._workers(sum(map(effort, new)))):
                skips += left
                made |= {record.series} if record else set()
                advance(1)
        records = store.records()
        report = Report(list(records.values()), frozenset(made), skips)
        store.write_index(records.values())
        replace_file(self.out / REPORT, report.to_json())
        if self.map_file is not None:
            replace_file(self.map_file, private_map(tasks, skips), mode=0o600)
        return report

    def _require_apart(self) -> None:
        """Raises: UsageError where one of the places is not there, or in another."""
        if not self.source.exists():
            raise UsageError(f"{self.source}: no such file or folder; expected what is to be imported")
        source, out = self.source.resolve(), self.out.resolve()
        if out.is_relative_to(source) or source.is_relative_to(out):
            raise UsageError(f"{self.out}: is in {self.source}, or the other way round; choose a folder of its own")
        if out.exists() and not out.is_dir():
            raise UsageError(f"{self.out}: is a file; expected a folder, or nothing")
        if self.map_file is not None and self.map_file.resolve().is_relative_to(out):
            raise UsageError(f"{self.map_file}: the map names patients and must not be in the data set ({self.out})")
        if self.map_file is not None and not self.map_file.resolve().parent.is_dir():
            raise UsageError(f"{self.map_file}: there is no such folder; expected one that is there")

    def _find(self) -> tuple[list[Found], list[Skip]]:
        """Raises: UsageError where a package is missing that reads what was found."""
        found: list[Found] = []
        skips: list[Skip] = []
        with progress("looking for scans", None) as advance:
            for each in find(self.source):
                if isinstance(each, Skip):
                    skips.append(each)
                else:
                    found.append(each)
                advance(1)
        for kind in sorted({each.kind for each in found}):
            module, what = PACKAGES[kind]
            if importlib.util.find_spec(module) is None:
                raise UsageError(f"{what}, which is not installed: pip install 'bigrun[ct]'")
        return found, skips

    def _read_headers(self, paths: Sequence[str]) -> tuple[list[Plane], list[Skip]]:
        pieces = [
            (paths[i : i + HEADERS_AT_ONCE], self.settings.modality) for i in range(0, len(paths), HEADERS_AT_ONCE)
        ]
        planes: list[Plane] = []
        skips: list[Skip] = []
        with progress("reading headers", len(paths)) as advance:
            results = in_order(read_planes, pieces, self._workers(len(paths)))
            for (piece, _), (some, left) in zip(pieces, results, strict=True):
                planes += some
                skips += left
                advance(len(piece))
        return planes, skips

    def _workers(self, files: int) -> int:
        return default_workers(files) if self.workers is None else self.workers

    def _stack_task(self, stack: Stack, pseudonyms: Pseudonyms) -> Task:
        first = stack.planes[0]
        names = Names(
            series=pseudonyms.of("series", f"{first.series}\n{first.patient}\n{stack.key}"),
            patient=pseudonyms.of("patient", first.patient),
            study=pseudonyms.of("study", first.study),
        )
        images = [
            f"{plane.image} {plane.size} {number}" for plane, number in zip(stack.planes, stack.numbers, strict=True)
        ]
        return self._task(names, stack, pseudonyms, images)

    def _volume_tasks(self, found: Sequence[Found], pseudonyms: Pseudonyms) -> Iterator[Task]:
        """Raises: UsageError where names that stay are no names of folders, or not one for each."""
        taken: dict[str, Path] = {}
        for each in found:
            place = each.path.relative_to(self.source if self.source.is_dir() else self.source.parent)
            owner = place.parts[0] if self.patient_from == "folder" else place.as_posix()
            names = Names(*(pseudonyms.of(*pair) for pair in (("series", f"file\n{place.as_posix()}"),
                            ("patient", f"file\n{owner}"), ("study", f"file\n{place.as_posix()}"))))  # fmt: skip
            if self.keep_names:
                stem = plain_name(each.path.name)
                names = Names(stem, plain_name(owner) if self.patient_from == "folder" else stem, stem)
            if names.series in taken:
                raise UsageError(f"{taken[names.series]} and {each.path} would both be {names.series}: rename one")
            taken[names.series] = each.path
            yield self._task(names, each, pseudonyms, [str(each.size), each.head.hex()])

    def _task(self, names: Names, source: Stack | Found, pseudonyms: Pseudonyms, content: Sequence[str]) -> Task:
        how = (self.settings.dataset, self.settings.modality, str(self.settings.encoding), names.patient, names.study)
        made_of = pseudonyms.digest("content", *how, *content)
        return Task(self.out, names, made_of, self.settings, source)


def effort(task: Task) -> int:
    """About how many DICOM slices' work it is: a volume's slices are packed to 0.2 MB or so each."""
    return len(task.paths) if isinstance(task.source, Stack) else 1 + task.source.size // 200_000


def is_done(task: Task, record: Record | None) -> bool:
    return record is not None and record.fingerprint == task.fingerprint


def plain_name(name: str) -> str:
    """A file's name without its ending, as the name of a folder."""
    for ending in ENDINGS:
        name = name.removesuffix(ending)
    return re.sub(r"[^A-Za-z0-9._-]|^\.", "_", name) or "_"


def private_map(tasks: Sequence[Task], skips: Sequence[Skip]) -> str:
    """Which files a series was made of, and which were skipped and why."""
    series = {
        task.names.series: {"patient": task.names.patient, "study": task.names.study, "files": task.paths}
        for task in tasks
    }
    skipped = [{"reason": skip.reason, "detail": skip.detail, "files": skip.paths} for skip in skips]
    return json.dumps({"series": series, "skipped": skipped}, indent=1, ensure_ascii=True) + "\n"
