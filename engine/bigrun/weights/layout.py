"""What a layout is: the names that a project gives to the tensors of a vision transformer."""

from __future__ import annotations

import abc
import re
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from torch import Tensor

    from bigrun.sections import Model

__all__ = ["Layout", "Names"]


class Layout(abc.ABC):
    """Translates the state dict of a backbone between a project's names and bigrun's own, which are those of the
    public DINOv3 weights. Works on meta tensors as on real ones.
    """

    name: str

    @abc.abstractmethod
    def matches(self, keys: Collection[str]) -> bool:
        """Whether a backbone with these names has this layout."""

    @abc.abstractmethod
    def to_own(self, state: Mapping[str, Tensor], model: Model) -> dict[str, Tensor]:
        """The tensors under bigrun's names; a name that this layout does not have stays as it is.

        The result is what the file holds: a tensor that the file lacks is lacking, one too many is there.
        """

    @abc.abstractmethod
    def from_own(self, state: Mapping[str, Tensor], model: Model) -> dict[str, Tensor]:
        """The state dict of a backbone (`VisionTransformer.state_dict()`) under this layout's names.

        Raises:
            UsageError: the layout has no place for something that the backbone's features depend on.
        """


@attrs.frozen
class Names:
    """Pairs of names, (bigrun's, the other project's), of tensors or of what stands before a dot in their names.

    `#` is a number, the same on both sides. A name that no pair has stays as it is.
    """

    pairs: tuple[tuple[str, str], ...]

    def to_own(self, name: str) -> str:
        return _translate(name, ((theirs, own) for own, theirs in self.pairs))

    def from_own(self, name: str) -> str:
        return _translate(name, self.pairs)


def _translate(name: str, pairs: Iterable[tuple[str, str]]) -> str:
    for old, new in pairs:
        match = re.match(re.escape(old).replace(r"\#", r"(\d+)") + r"(?=\.|$)", name)
        if match:
            return new.replace("#", match[1] if match.groups() else "#") + name[match.end() :]
    return name
