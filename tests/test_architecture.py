"""The shape of the source: who imports whom, how long a file or a function may be, what must not load torch."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from source import parsed

ROOT = Path(__file__).parent.parent
ENGINE = ROOT / "engine" / "bigrun"
PLUGINS = ROOT / "plugins"
FILE_LINES = 260
FUNCTION_LINES = 40
LOOP_LINES = 150

ENGINE_FILES = sorted(ENGINE.rglob("*.py"))
PLUGIN_FILES = sorted(PLUGINS.rglob("*.py"))
# `hookspecs.py` is one docstring per hook: longer than a file of code may be.
LONG_FILES = {ENGINE / "hookspecs.py"}

TORCH_FREE = ["bigrun", "bigrun.cli", "bigrun.hookspecs", "bigrun.loop", "bigrun.config", "bigrun.listing",
              "bigrun.plugins", "bigrun.explain"]  # fmt: skip
HEAVY = {"torch", "numpy", "matplotlib", "tensorboardX", "rich"}


def imported(tree: ast.AST) -> Iterator[str]:
    """Every imported module by its full name, wherever it is imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute"
            yield node.module


def code_strings(tree: ast.AST) -> Iterator[str]:
    """String constants that are not docstrings."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def code_lines(function: ast.FunctionDef) -> int:
    """Lines of a function without its docstring and its signature."""
    body = function.body
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


@functools.cache
def plugin_names() -> set[str]:
    return {point.name for point in importlib.metadata.entry_points(group="bigrun")}


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_engine_imports_no_plugin_and_names_none() -> None:
    names = plugin_names()
    for path in ENGINE_FILES:
        assert not [name for name in imported(parsed(path)) if name.startswith("bigrun_")], short(path)
        assert not [text for text in code_strings(parsed(path)) if text in names], short(path)


def code_words(tree: ast.AST) -> Iterator[str]:
    """Every identifier, whatever it names, and every string constant that is not a docstring."""
    yield from code_strings(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant):
            for _, value in ast.iter_fields(node):
                yield from (v for v in (value if isinstance(value, list) else [value]) if isinstance(v, str))


def gram_words(text: str) -> list[str]:
    """Words that speak of a Gram matrix: `gram_teacher`, `bigrun_gram`, `useGram`; not program, histogram, grammar.

    A dotted or hyphenated word is one word.
    """
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text)
    return [word for word in re.findall(r"[\w.-]*\w", apart) if re.search(r"(?<![a-z])gram(?!m)", word.lower())]


@pytest.mark.parametrize(
    "source",
    [
        "run.gram_teacher = None",
        "class GramTeacher: ...",
        "def f(useGram): ...",
        "f(gram=1)",
        "from bigrun_gram import plugin",
        "import x as GRAM",
        "def f():\n    global gram2",
        "x = 'gram-anchoring'",
        "x = f'{y} of plugins.gram-anchoring'",
        "match x:\n    case {**gram}: ...",
    ],
)
def test_code_that_speaks_of_gram_is_found(source: str) -> None:
    assert any(gram_words(word) for word in code_words(ast.parse(source)))


def test_words_that_contain_gram_by_chance_are_not_found() -> None:
    assert not gram_words("a program's histogram, GRAMMAR, programs.cfg, diagrams, Programme, a bigram")


def test_the_engine_does_not_know_the_word_gram() -> None:
    """The test of the design: Gram anchoring is a plugin by nothing but hooks."""
    in_code = [(short(path), word) for path in ENGINE_FILES for word in code_words(parsed(path)) if gram_words(word)]
    assert not in_code
    everywhere = [(short(path), word) for path in ENGINE_FILES for word in gram_words(path.read_text(encoding="utf-8"))]
    # The help of `bigrun explain` needs some plugin's options for an example.
    assert everywhere == [("engine/bigrun/cli.py", "plugins.gram-anchoring")]
    assert not [path for path in ENGINE_FILES if gram_words(path.stem)]


def test_a_plugin_imports_public_names_and_no_other_plugin() -> None:
    for path in PLUGIN_FILES:
        package = path.relative_to(PLUGINS).parts[0]
        for node in ast.walk(parsed(path)):
            if not isinstance(node, ast.ImportFrom) or not node.module:
                continue
            top = node.module.split(".")[0]
            if top.startswith("bigrun_"):
                assert top == package, f"{short(path)}: {node.module}"
            elif top == "bigrun":
                foreign = {alias.name for alias in node.names} - public_names(module_file(node.module))
                assert not foreign, f"{short(path)}: {node.module} does not export {foreign} in __all__"
                assert not [alias.name for alias in node.names if alias.name.startswith("_")], short(path)


def module_file(module: str) -> Path:
    """Of a module of the engine."""
    path = ENGINE.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@functools.cache
def public_names(path: Path) -> set[str]:
    for node in parsed(path).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def test_files_and_functions_are_small() -> None:
    files = [*ENGINE_FILES, *PLUGIN_FILES]
    lines = {short(path): path.read_text(encoding="utf-8").count("\n") for path in files if path not in LONG_FILES}
    assert not {name: count for name, count in lines.items() if count > FILE_LINES}
    functions_of = [(short(path), f.name, code_lines(f)) for path in files for f in functions(parsed(path))]
    assert not [(path, name, count) for path, name, count in functions_of if count > FUNCTION_LINES]


def test_a_package_file_holds_no_code() -> None:
    for path in [*ENGINE_FILES, *PLUGIN_FILES]:
        if path.name == "__init__.py":
            allowed = (ast.ImportFrom, ast.Expr, ast.Assign)
            assert all(isinstance(node, allowed) for node in parsed(path).body), short(path)
            assert not list(functions(parsed(path))), short(path)


def test_the_loop_fits_its_budget() -> None:
    assert (ENGINE / "loop.py").read_text(encoding="utf-8").count("\n") <= LOOP_LINES


@pytest.mark.parametrize("package", [ENGINE, *sorted(p for p in PLUGINS.iterdir() if p.is_dir())], ids=lambda p: p.name)
def test_packages_are_typed(package: Path) -> None:
    if (package / "__init__.py").exists():
        assert (package / "py.typed").is_file()


@pytest.mark.parametrize("module", TORCH_FREE)
def test_the_command_line_path_loads_no_torch(module: str) -> None:
    script = f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))"
    found = json.loads(
        subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True).stdout
    )
    assert not HEAVY & set(found)
    assert not [name for name in found if name.startswith("bigrun_")]


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["plugins"], ["presets"], ["explain", "model.depth"], ["explain", "optimizer"],
     ["run", "--help"], ["completion", "bash"]],
    ids=" ".join,
)  # fmt: skip
def test_commands_that_only_tell_something_load_no_torch(arguments: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "bigrun", *arguments]
    done = subprocess.run(command, capture_output=True, check=True, text=True, cwd=tmp_path)
    assert done.stdout
    found = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert {"click", "bigrun.cli"} <= found  # or nothing was measured
    packages = {name.split(".")[0] for name in found}
    assert not packages & HEAVY
    assert not [name for name in packages if name.startswith("bigrun_")]


def test_importing_everything_changes_nothing_in_the_process() -> None:
    script = """
import importlib, json, logging, os, pkgutil, random, signal, sys
import torch, numpy
import bigrun
def look():
    return [dict(os.environ), str(random.getstate()), str(torch.get_rng_state().tolist()), torch.get_num_threads(),
            torch.get_float32_matmul_precision(), str(signal.getsignal(signal.SIGINT)), logging.getLogger().level,
            len(logging.getLogger().handlers), torch.get_default_dtype().__str__()]
before = look()
for found in pkgutil.walk_packages(bigrun.__path__, "bigrun."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
print(json.dumps(before == look()))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "true"
