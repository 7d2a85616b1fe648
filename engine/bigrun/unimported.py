"""What the source of an entry point says of it, read without running it."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

__all__ = ["definition"]


def definition(target: str) -> ast.stmt | None:
    """The class or function that an entry point names, as it stands in its source; None when it is not found there:
    its module is broken, compiled or gone, or makes it in another way.

    Args:
        target: `package.module:name`.
    """
    module, _, name = target.partition(":")
    try:
        tree = ast.parse(_source_of(module) or "")
    except (OSError, SyntaxError, ValueError, ImportError, RecursionError):  # whoever imports it will say which
        return None
    kinds = (ast.ClassDef, ast.FunctionDef)
    return next((node for node in tree.body if isinstance(node, kinds) and node.name == name), None)


def _source_of(module: str) -> str | None:
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)  # a top-level name: finding it imports nothing
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for file in ("/".join([folder, *rest]) + ".py", "/".join([folder, *rest, "__init__.py"])):
            try:
                return Path(file).read_text(encoding="utf-8")
            except OSError:
                continue
    if spec and spec.origin and not rest:
        return Path(spec.origin).read_text(encoding="utf-8")
    return None
