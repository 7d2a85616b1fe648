"""`bigrun data`: index, pack and whatever else is done to a data set before training. Imports when it runs."""

from __future__ import annotations

import click

from bigrun.added_commands import ExtensibleGroup
from bigrun.data.commands.check import check
from bigrun.data.commands.index import index
from bigrun.data.commands.pack import pack
from bigrun.data.commands.split import split
from bigrun.data.commands.verify import verify

__all__ = ["data"]


class DataCommands(ExtensibleGroup):
    """`bigrun data`."""

    entry_points = "bigrun.data"
    prefix = "bigrun data"


@click.group(cls=DataCommands)
def data() -> None:
    """Index, pack, split, check, import and fetch the images of a run.

    PRESET|DIR is a folder of images, or a preset with its options, whose data set is built as a run would build it.
    """


for command in (check, index, pack, split, verify):  # in the order of their names; `list_commands` sorts
    data.add_command(command)
