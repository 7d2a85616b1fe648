"""The git repository that a folder lies in, if there is one and if there is git."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

__all__ = ["repository"]

SECONDS = 10
"""A question to git that takes longer is given up: a repository on a disk that sleeps keeps no run from starting."""
# Nothing that a repository's configuration names is started, and nothing is written into it. `git status` would start
# its file system monitor, its hooks, its filters, and what fetches the objects that a partial clone lacks
# (core.sshCommand, remote.*.uploadpack). Pagers, editors, signatures, textconv and other diff programs belong to
# commands that are not used here, or to a terminal; a submodule is not looked into.
HARMLESS = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
FILTERS = ("config", "-z", "--name-only", "--get-regexp", r"^filter\..*\.(clean|process|required)$")
STATUS = ("status", "--porcelain=v2", "--branch", "--untracked-files=no", "--ignore-submodules=dirty")
ENVIRONMENT = {
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
}


def repository(folder: Path) -> dict[str, Any] | None:
    """`root`, `commit`, `branch`, `is_dirty` (files under version control are not as committed) and `remote`, as JSON,
    None for what is not known; or `root` and `problem`. None for a folder that is in no repository."""
    try:
        top = git(folder, "rev-parse", "--show-toplevel")
        if top.returncode:
            said = top.stderr.strip().partition("\n")[0]
            return None if "not a git repository" in said else {"root": str(folder), "problem": said}
        root = top.stdout.rstrip("\n")
        status = git(folder, *without_filters(folder), *STATUS)
        remote = git(folder, "config", "--get", "remote.origin.url").stdout.strip()
    except FileNotFoundError:
        return {"root": str(folder), "problem": "there is no git"} if looks_like_one(folder) else None
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return {"root": str(folder), "problem": f"{type(error).__name__}: {error}"}
    lines = status.stdout.splitlines() if status.returncode == 0 else []
    facts = dict(line[2:].split(" ", 1) for line in lines if line.startswith("# branch."))
    commit, branch = facts.get("branch.oid"), facts.get("branch.head")
    return {
        "root": root,
        "commit": None if commit == "(initial)" else commit,
        "branch": None if branch == "(detached)" else branch,
        "is_dirty": any(not line.startswith("#") for line in lines) if lines else None,
        "remote": remote or None,
    }


def without_filters(folder: Path) -> list[str]:
    """Options that switch off every filter of the configuration, whoever set it.

    Raises:
        ValueError: there is one that cannot be: `-c` ends a name at its first `=`.
    """
    found = git(folder, *FILTERS, errors="surrogateescape")
    names = {name.rpartition(".")[0] for name in found.stdout.split("\0") if name}
    if found.returncode not in (0, 1) or any("=" in name for name in names):
        raise ValueError("its configuration has filters that cannot be switched off, so git is not asked for changes")
    off = ("clean=", "process=", "required=false")
    return [word for name in sorted(names) for setting in off for word in ("-c", f"{name}.{setting}")]


def git(folder: Path, *words: str, errors: str = "replace") -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(
        ["git", *HARMLESS, "-C", str(folder), *words],
        env=environment | ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors=errors,
        timeout=SECONDS,
        check=False,
    )


def looks_like_one(folder: Path) -> bool:
    return any((parent / ".git").exists() for parent in (folder, *folder.parents))
