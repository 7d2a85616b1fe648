"""An import from the first look at the source to the report."""

from __future__ import annotations

import contextlib
import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import attrs

from bigrun.errors import BigrunError, UsageError
from bigrun.parallel import GOES_ON, default_workers, in_order
from bigrun.progress import progress
from bigrun_ct_import.content import content_of
from bigrun_ct_import.convert import Settings, Task, convert
from bigrun_ct_import.find import Found, find
from bigrun_ct_import.plan import outdated, remaining, replaced
from bigrun_ct_import.planes import Plane, read_planes
from bigrun_ct_import.pseudonyms import Pseudonyms, load_salt
from bigrun_ct_import.report import Report
from bigrun_ct_import.skips import Skip
from bigrun_ct_import.stacks import Stack, stacks_of
from bigrun_ct_import.store import Record, Store, replace_file
from bigrun_ct_import.tasks import Naming

__all__ = ["Import"]

REPORT = "import-report.json"
PACKAGES = {
    "dicom": ("pydicom", "DICOM files are read by pydicom"),
    "nifti": ("nibabel", "NIfTI files are read by nibabel"),
    "nrrd": ("nrrd", "NRRD files are read by pynrrd"),
}
HEADERS_AT_ONCE = 64


@attrs.frozen
class Import:
    """What is to be imported, and how.

    Attributes:
        map_file: where the private map from pseudonyms to files goes; None: nowhere.
        patient_from: what stands for the patient of a NIfTI or NRRD file, `file` or `folder`; None: nothing does.
        keep_names: names of NIfTI and NRRD files stay: they are public.
        workers: processes; None: as many as cores, or none for few files.
    """

    source: Path
    out: Path
    settings: Settings
    salt_file: Path
    map_file: Path | None = None
    patient_from: str | None = None
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
        store, encoding = Store(self.out), self.settings.encoding
        try:
            with contextlib.closing(store):
                store.open(pseudonyms.of("salt", "check"))
                store.require_alike(self.settings.dataset, self.settings.modality, encoding.slope, encoding.offset)
                return self._fill(store, pseudonyms)
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            raise BigrunError(f"{place}{error.strerror}; the same command goes on where this one stopped") from error

    def _fill(self, store: Store, pseudonyms: Pseudonyms) -> Report:
        tasks, skips = self._tasks(pseudonyms)
        new: list[Task] = []
        for each in remaining(tasks, store.records()):
            if isinstance(each, Skip):
                skips.append(each)
            else:
                new.append(each)
        made: set[str] = set()
        slices: list[Skip] = []
        with progress("importing", len(new)) as advance:
            workers = self._workers(sum(map(effort, new)))
            for record, left in in_order(convert, new, workers, advice=GOES_ON):
                (skips if record is None else slices).extend(left)
                made |= {record.series} if record else set()
                advance(1)
        for record in replaced(tasks, store.records()):
            store.remove(record.series)
        records = store.records()
        old = frozenset(record.series for record in outdated(tasks, records))
        report = Report(list(records.values()), frozenset(made), skips, old)
        store.write_index(records.values())
        replace_file(self.out / REPORT, report.to_json())
        if self.map_file is not None:
            replace_file(self.map_file, private_map(tasks, records, [*skips, *slices]), mode=0o600)
        return report

    def _tasks(self, pseudonyms: Pseudonyms) -> tuple[list[Task], list[Skip]]:
        """Every series of the source, whether it was imported before or not, and what is left out."""
        naming = Naming(self.source, self.out, self.settings, pseudonyms, self.patient_from, self.keep_names)
        found, skips = self._find()
        planes, unread = self._read_headers([str(f.path) for f in found if f.kind == "dicom"])
        stacks = list(stacks_of(planes, self.settings.any_plane))
        skips += [*unread, *(stack for stack in stacks if isinstance(stack, Skip))]
        tasks = [naming.stack_task(stack) for stack in stacks if isinstance(stack, Stack)]
        volumes = [f for f in found if f.kind != "dicom"]
        for each in naming.volume_tasks(self._hashed(volumes, skips)):
            if isinstance(each, Skip):
                skips.append(each)
            else:
                tasks.append(each)
        return tasks, skips

    def _hashed(self, volumes: Sequence[Found], skips: list[Skip]) -> Iterator[tuple[Found, bytes]]:
        """Files with the SHA-256 of their content; those that cannot be read are added to `skips`."""
        with progress("reading volumes", len(volumes)) as advance:
            contents = in_order(content_of, [str(f.path) for f in volumes], self._workers(len(volumes)))
            for each, content in zip(volumes, contents, strict=True):
                if isinstance(content, Skip):
                    skips.append(content)
                else:
                    yield each, content
                advance(1)

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


def effort(task: Task) -> int:
    """About how many DICOM slices' work it is: a volume's slices are packed to 0.2 MB or so each."""
    return len(task.images) if isinstance(task.source, Stack) else 1 + task.source.size // 200_000


def private_map(tasks: Sequence[Task], records: Mapping[str, Record], skips: Sequence[Skip]) -> str:
    """Which files a series was made of, and which were skipped and why."""
    made = ((task.paths, records.get(task.names.series)) for task in tasks)
    series = {
        record.series: {"patient": record.patient, "study": record.study, "files": paths}
        for paths, record in made
        if record is not None
    }
    skipped = [{"reason": skip.reason, "detail": skip.detail, "files": skip.paths} for skip in skips]
    return json.dumps({"series": series, "skipped": skipped}, indent=1, ensure_ascii=True) + "\n"
