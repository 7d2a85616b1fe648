"""Facts about files by column: text, whole numbers or numbers."""

from __future__ import annotations

import numbers
from array import array

import attrs
import numpy as np
import numpy.typing as npt

from bigrun.data.files.entry import Value
from bigrun.errors import DataError

__all__ = ["Column", "ColumnBuilder", "Numbers", "Texts"]


@attrs.frozen(eq=False)
class Texts:
    """Texts that repeat, as the names of series do: each is kept once."""

    codes: npt.NDArray[np.int32]  # (N,), -1 for None
    values: tuple[str, ...]

    def array(self) -> npt.NDArray[np.object_]:
        """(N,) str or None."""
        values = np.array([*self.values, None], dtype=object)
        return values[self.codes]

    def take(self, rows: npt.NDArray[np.int64]) -> Texts:
        """The column of these rows."""
        return Texts(self.codes[rows], self.values)

    def equals(self, other: Column) -> bool:
        """Whether another column has the same values."""
        return isinstance(other, Texts) and np.array_equal(self.array(), other.array())


@attrs.frozen(eq=False)
class Numbers:
    """Whole numbers, or numbers of which some may be unknown (NaN)."""

    values: npt.NDArray[np.int64] | npt.NDArray[np.float64]  # (N,)

    def array(self) -> npt.NDArray[np.int64] | npt.NDArray[np.float64]:
        """(N,) int64 or float64."""
        return self.values

    def take(self, rows: npt.NDArray[np.int64]) -> Numbers:
        """The column of these rows."""
        return Numbers(self.values[rows])

    def equals(self, other: Column) -> bool:
        """Whether another column has the same values, unknown where these are."""
        same_type = isinstance(other, Numbers) and self.values.dtype == other.values.dtype
        return same_type and np.array_equal(self.values, other.array(), equal_nan=True)


Column = Texts | Numbers


class ColumnBuilder:
    """Collects the values of one column; its type is that of its values."""

    def __init__(self, name: str, rows: int = 0) -> None:
        """
        Args:
            rows: files that came before the column's first value.
        """
        self.name = name
        self.codes: dict[str, int] = {}
        self.texts = array("i")
        self.whole = array("q")
        self.floats = array("d")
        self.kind = "none"
        self.missing = rows

    def add(self, value: Value, path: str) -> None:
        """Append the value of the file at `path`.

        Raises:
            DataError: a text among numbers, or a number among texts.
        """
        kind = "none" if value is None else "text" if isinstance(value, str) else kind_of_number(value)
        if self.kind == "none":
            self.begin(kind)
        if kind == "none":
            kind = "none" if self.kind == "none" else "text" if self.kind == "text" else "float"
        if self.kind == "whole" and kind == "float":
            self.floats, self.whole, self.kind = array("d", self.whole), array("q"), "float"
        if (kind == "text") != (self.kind == "text"):
            raise DataError(
                f"{path}: column {self.name!r} is {value!r}, expected {'text' if self.kind == 'text' else 'a number'} "
                "as in the files before it; a column is all text or all numbers"
            )
        self.append(value)

    def begin(self, kind: str) -> None:
        """The column's first value: what was missing so far gets a place."""
        self.kind = "float" if kind == "whole" and self.missing else kind
        if self.kind == "text":
            self.texts = array("i", [-1]) * self.missing
        elif self.kind == "float":
            self.floats = array("d", [float("nan")]) * self.missing

    def append(self, value: Value) -> None:
        if self.kind == "none":
            self.missing += 1
        elif self.kind == "text":
            self.texts.append(-1 if value is None else self.codes.setdefault(str(value), len(self.codes)))
        elif self.kind == "whole":
            assert value is not None
            if not -(2**63) <= int(value) < 2**63:
                raise DataError(f"column {self.name!r}: {value} has more than 64 bits; give it as text")
            self.whole.append(int(value))
        else:
            self.floats.append(float("nan") if value is None else float(value))

    def build(self) -> Column:
        """What was collected; text where no value was ever known."""
        if self.kind == "none":
            return Texts(np.full(self.missing, -1, dtype=np.int32), ())
        if self.kind == "text":
            return Texts(np.array(self.texts, dtype=np.int32), tuple(self.codes))
        if self.kind == "whole":
            return Numbers(np.array(self.whole, dtype=np.int64))
        return Numbers(np.array(self.floats, dtype=np.float64))


def kind_of_number(value: object) -> str:
    if isinstance(value, numbers.Integral):
        return "whole"
    if isinstance(value, numbers.Real):
        return "float"
    raise DataError(f"a column holds text, numbers or None, got {value!r} ({type(value).__name__})")
