"""Every command in the documentation runs, and prints what the page says it prints."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tomli
from fenced import COMMANDS, Block, blocks_of, is_slow, page_name, pages
from shell import Shell, open_page

from bigrun.activation import activate
from bigrun.config import Document

FOLLOWED = [
    pytest.param(page, id=page_name(page), marks=[pytest.mark.slow] * is_slow(page))
    for page in pages()
    if any(b.action not in ("slow", "skip") for b in blocks_of(page) if b.is_commands)
]
SLOW = [block for page in pages() for block in blocks_of(page) if block.is_commands and block.action == "slow"]


def follow(page: Path, shell: Shell) -> list[Block]:
    """Write the page's files and run its commands, in order; returns the command blocks that ran."""
    ran: list[Block] = []
    printed = ""
    for block in blocks_of(page):
        if block.action == "file":
            (shell.directory / block.argument).write_text(block.text, encoding="utf-8")
        elif block.is_commands and block.action not in ("slow", "skip"):
            printed = run(block, shell)
            ran.append(block)
        elif block.action == "output":
            assert ran, f"{block.where}: no commands before this output"
            expect(block, printed)
    return ran


def run(block: Block, shell: Shell) -> str:
    """Run one block; its exit code is 0, or the one that the page states."""
    done = shell(block.script())
    expected = int(block.argument) if block.action == "exits" else 0
    assert done.returncode == expected, f"{block.where}: exit code {done.returncode}\n{block.script()}\n{done.stdout}"
    return done.stdout


def expect(block: Block, printed: str) -> None:
    """Every line of the block is among the printed lines, in this order."""
    rest = (" ".join(line.split()) for line in printed.splitlines())
    for line in block.text.splitlines():
        pattern = re.compile(".*".join(re.escape(part) for part in " ".join(line.split()).split("...")))
        found = any(pattern.fullmatch(candidate) for candidate in rest)
        assert found, f"{block.where}: not printed (or not in this order): {line}\nprinted:\n{printed}"


@pytest.mark.parametrize("page", FOLLOWED)
def test_the_commands_of_a_page_run(page: Path, environment: dict[str, str], tmp_path: Path) -> None:
    ran = follow(page, open_page(tmp_path, environment))
    assert ran == [b for b in blocks_of(page) if b.is_commands and b.action not in ("slow", "skip")]


@pytest.mark.slow
@pytest.mark.parametrize("block", SLOW, ids=lambda block: block.where)
def test_a_slow_block_runs(block: Block, checkout: Shell) -> None:
    done = checkout(block.script())
    assert done.returncode == 0, done.stdout


def test_a_skipped_block_has_a_reason() -> None:
    for page in pages():
        for block in blocks_of(page):
            assert block.action != "skip" or len(block.argument) > 10, f"{block.where}: skipped without a reason"


def test_nothing_is_left_out() -> None:
    """Commands run, are slow or are skipped; every block of Python is a file; every block of TOML is read."""
    for page in pages():
        for block in blocks_of(page):
            allowed = {
                **dict.fromkeys(COMMANDS, (None, "exits", "slow", "skip")),
                "python": ("file",),
                "toml": ("file", "fragment"),
            }.get(block.language)
            assert allowed is None or block.action in allowed, f"{block.where}: {block.action} for {block.language}"


FILES = [block for page in pages() for block in blocks_of(page) if block.action == "file"]
FRAGMENTS = [block for page in pages() for block in blocks_of(page) if block.action == "fragment"]


@pytest.mark.parametrize("block", FRAGMENTS, ids=lambda block: block.where)
def test_a_part_of_a_preset_is_valid(block: Block) -> None:
    tables = tomli.loads(block.text)
    for plugin in ("student-norm",):  # of the tutorial, where it is installed
        tables.get("plugins", {}).pop(plugin, None)
    tables.setdefault("run", {}).setdefault("max_steps", 1000)
    activate(Document(block.where, "fragment", tables))


@pytest.mark.parametrize("block", [b for b in FILES if b.language == "python"], ids=lambda block: block.where)
def test_the_plugins_of_a_page_can_be_activated(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each Python file can be imported, and each plugin in it has only hooks and parameters that exist."""
    name = f"page_{block.line}_{Path(block.argument).stem}"
    (tmp_path / f"{name}.py").write_text(block.text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)  # a script may write when it is imported
    module: Any = __import__(name)
    classes = [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == name]
    plugins = [c for c in classes if any(hasattr(m, "bigrun_impl") for m in vars(c).values())]
    if plugins:
        activate(Document(block.where, "page", {"plugins": {f"{name}:{c.__name__}": {} for c in plugins}}))
