"""ct-slices: series of 16-bit CT slices with an index.csv, in Hounsfield units."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigrun import hookimpl
from bigrun.errors import NoImagesError, RunDirectoryError, UsageError
from bigrun_ct.config import CtConfig

if TYPE_CHECKING:
    from bigrun.data.dataset import Dataset
    from bigrun.data.tone import Tone
    from bigrun.run import Run
    from bigrun_ct.dataset import SliceDataset

__all__ = ["CtSlices"]

KEPT = ("hu_slope", "hu_offset", "z_stride", "temperature", "stack_slices")


class CtSlices:
    """Brings CT slices from `data.path`: neighbours as channels, a window in Hounsfield units drawn for each view,
    batches of slices of different series."""

    Config = CtConfig
    state_version = 2  # 1 says nothing of the slices

    def __init__(self, config: CtConfig) -> None:
        self.config = config
        self._run: Run | None = None
        self._slices: dict[str, Any] | None = None

    @hookimpl
    def build_dataset(self, run: Run) -> Dataset:
        from bigrun.data.files import open_files
        from bigrun_ct.dataset import SliceDataset
        from bigrun_ct.index import INDEX, fingerprint, read_index
        from bigrun_ct.series import find_series

        data, channels = run.config.data, run.config.model.in_channels
        if data.path is None:
            raise NoImagesError(f"no slices: set data.path to a folder with an {INDEX} (--set data.path=/folder)")
        if channels % 2 == 0:
            raise UsageError(
                f"model.in_channels: expected 1 (a slice), 3 (and its neighbours) or another odd number, got {channels}"
            )
        table = Path(data.path) / INDEX
        files = open_files(
            Path(data.path),
            lambda: read_index(table),
            fingerprint=lambda: fingerprint(table),
            index=None if data.index is None else Path(data.index),
        )
        if len(files) == 0:
            raise NoImagesError(f"{data.path}: no slices: {INDEX} has no row that can be used")
        series = find_series(files, data.path)
        self._check_names(series.datasets)
        self._run = run
        return SliceDataset(files, series, channels, self.config)

    def _check_names(self, known: tuple[str, ...]) -> None:
        """Raises UsageError when a table is for a data set that is not there."""
        for name in self.config.datasets:
            if name not in known:
                named = ", ".join(filter(None, known)) or "none (there is no column `dataset`)"
                raise UsageError(f"plugins.ct-slices.datasets.{name}: no such data set; those of the index: {named}")

    @hookimpl
    def build_tone(self, run: Run) -> Tone | None:
        from bigrun_ct.dataset import SliceDataset
        from bigrun_ct.tone import HuWindow

        if not isinstance(run.dataset, SliceDataset):
            return None
        slope, offset = run.dataset.sample_encodings()
        return HuWindow(slope, offset, self.config.window_level_hu, self.config.window_width_hu)

    @hookimpl
    def header_lines(self, run: Run) -> list[str]:
        from bigrun_ct.header import slice_lines

        return list(slice_lines(run))

    def state_dict(self) -> dict[str, Any]:
        """What decides which slice is seen when, and what its values mean."""
        from bigrun_ct.identity import identity

        if self._slices is None and (dataset := self._dataset()) is not None:
            self._slices = identity(dataset)
        sets = {n: [e.hu_slope, e.hu_offset] for n, e in sorted(self.config.datasets.items())}
        kept = {name: getattr(self.config, name) for name in KEPT}
        kept["datasets"] = {n: pair for n, pair in sets.items() if pair != [None, None]}
        return {**kept, "slices": self._slices}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises RunDirectoryError when the run was begun with other slices, values or another order."""
        from bigrun_ct.identity import differences

        now, then = self.state_dict(), state.get("slices")
        changed = [
            f"  plugins.ct-slices.{k}: {state.get(k)!r} -> {now[k]!r}"
            for k in now
            if k != "slices" and state.get(k) != now[k]
        ]
        if then is not None and self._slices is not None:
            changed += differences(then, self._slices)
        if changed:
            raise RunDirectoryError(
                "this run was begun with other slices, or in another order:\n"
                + "\n".join(changed)
                + "\nrestore these values to continue it, or start beside it with --fresh"
            )
        self._slices = self._slices or then
        if "slices" not in state:
            self._tell_of_order()

    def _tell_of_order(self) -> None:
        """Checkpoints of the first version have an order that this one no longer has for some slices."""
        from bigrun_ct.order import is_as_at_first, slice_order

        dataset, run = self._dataset(), self._run
        if dataset is None or run is None:
            return
        order = slice_order(dataset, run.config.run.seed, run.config.data.effective_batch)
        if not is_as_at_first(dataset, order):
            text = (
                "this run was begun when stacks were longer than some series, or shared no slice: from here on stacks "
                f"have {order.stack} slices, and slices come in another order"
            )
            run.event("config-changed", text, "warning", key="plugins.ct-slices.stack_slices")

    def _dataset(self) -> SliceDataset | None:
        """The run's, if it is made of slices."""
        from bigrun_ct.dataset import SliceDataset

        dataset = None if self._run is None else self._run.dataset
        return dataset if isinstance(dataset, SliceDataset) else None
