"""The command `bigrun data import`. Imports when it runs."""

from __future__ import annotations

from pathlib import Path

import click

from bigrun.finite import FiniteRange

__all__ = ["import_"]


@click.command("import", short_help="Make 16-bit slices and an index of DICOM, NIfTI and NRRD.")
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--salt-file", type=click.Path(path_type=Path), help="Secret of the pseudonyms, made if it is not there "
    "(mode 600).  [default: ~/.config/bigrun/import-salt]",
)  # fmt: skip
@click.option("--dataset", default="ct", show_default=True, help="Name of the data set in the index.")
@click.option("--workers", type=click.IntRange(min=0), help="Processes.  [default: one for each core]")
@click.option(
    "--min-slices", type=click.IntRange(min=1), default=1, show_default=True, help="Smaller series are skipped."
)
@click.option("--any-plane", is_flag=True, help="Coronal, sagittal and oblique series too.")
@click.option(
    "--patient-from", type=click.Choice(["file", "folder"]),
    help="NIfTI and NRRD name no patient: each file is one, or each folder directly below SRC.  [default: not known]",
)  # fmt: skip
@click.option(
    "--keep-names", is_flag=True, help="Series of NIfTI and NRRD are called as their files, which are public."
)
@click.option(
    "--no-value-check", is_flag=True, help="Take NIfTI and NRRD volumes in which there is hardly any air, too."
)
@click.option("--modality", default="CT", show_default=True, help="Another one needs --scale.")
@click.option("--scale", type=FiniteRange(min=0, min_open=True), help="Units per step of 16 bits.  [default: 0.1 HU]")
@click.option(
    "--map", "map_file", type=click.Path(path_type=Path), help="Write which files became which series, and which were "
    "skipped; it names patients: mode 600, outside OUT.",
)  # fmt: skip
def import_(
    source: Path,
    out: Path,
    salt_file: Path | None,
    dataset: str,
    workers: int | None,
    min_slices: int,
    any_plane: bool,
    patient_from: str | None,
    keep_names: bool,
    no_value_check: bool,
    modality: str,
    scale: float | None,
    map_file: Path | None,
) -> None:
    """Make 16-bit PNG slices and an index of DICOM series, NIfTI and NRRD volumes.

    SRC is a file, or a folder that is searched with its subfolders; scans are known by their content. OUT is a new
    folder, or that of an earlier import, to which what is new is added. Nothing of patients is in OUT but pseudonyms.
    The exit code is 1 if there is nothing in the data set at the end.
    """
    from bigrun.errors import UsageError
    from bigrun.terminal import say
    from bigrun_ct_import.convert import Settings
    from bigrun_ct_import.hounsfield import CT, other_encoding
    from bigrun_ct_import.job import Import
    from bigrun_ct_import.pseudonyms import default_salt_file

    if modality != "CT" and scale is None:
        raise UsageError(f"--modality {modality}: expected --scale too, how much of its values one step of 16 bits is")
    encoding = CT if scale is None else other_encoding(modality, scale)
    check_values = modality == "CT" and not no_value_check
    settings = Settings(dataset, modality, encoding, any_plane, check_values, min_slices)
    salt = salt_file or default_salt_file()
    job = Import(source, out, settings, salt, map_file, patient_from, keep_names, workers)
    report = job.run()
    for line in report.lines():
        say(line)
    if not report.records:
        say(
            f"{source}: nothing was imported; expected DICOM files, NIfTI (.nii, .nii.gz) or NRRD volumes in it or "
            "below; what was left out, if there was anything, stands above, and --map FILE names every file of it",
            error=True,
        )
        click.get_current_context().exit(1)
    say(f"\nreport       {out / 'import-report.json'}")
    say(f"data.path    {out}")
