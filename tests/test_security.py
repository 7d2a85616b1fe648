"""What can execute code, start a program or reach a network, and where; and what SECURITY.md says."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import tomli
from source import parsed

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*(ROOT / "engine").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")])
SECURITY = (ROOT / "SECURITY.md").read_text(encoding="utf-8")

# Modules that make code of data, start programs, load libraries or speak to a network.
DANGEROUS_MODULES = {
    "pickle", "cPickle", "_pickle", "pickletools", "dill", "cloudpickle", "joblib", "shelve", "marshal", "copyreg",
    "yaml", "ruamel", "jsonpickle", "code", "codeop", "runpy", "imp", "pty", "subprocess", "multiprocessing", "ctypes",
    "cffi", "importlib", "pkgutil", "zipimport", "socket", "ssl", "http", "urllib", "urllib3", "requests", "httpx",
    "aiohttp", "ftplib", "smtplib", "xmlrpc", "socketserver", "asyncio", "webbrowser", "huggingface_hub",
}  # fmt: skip
DANGEROUS_CALLS = {"eval", "exec", "compile", "__import__", "breakpoint"}
DANGEROUS_ATTRIBUTES = {
    "os.system", "os.popen", "os.execv", "os.execve", "os.execvp", "os.spawnv", "os.posix_spawn", "os.fork",
    "np.load", "numpy.load", "np.fromfile", "torch.load", "torch.hub", "torch.jit", "torch.package",
    "torch.utils.cpp_extension", "torch.ops.load_library", "torch.classes", "torch.distributed.checkpoint",
    "pd.read_pickle", "builtins.eval", "builtins.exec",
}  # fmt: skip

# Every place, and why it is harmless. A new one belongs here only after somebody has read it.
REVIEWED = {
    "engine/bigrun/added_commands.py": {"importlib"},  # metadata; imports the command that was named
    "engine/bigrun/children.py": {"multiprocessing"},  # starts this package's own functions, from a clean server
    "engine/bigrun/config.py": {"importlib"},  # files of this package
    "engine/bigrun/data/pack/shards.py": {"np.load"},  # allow_pickle=False, a flat array of bytes
    "engine/bigrun/data/worker.py": {"multiprocessing"},  # pickles between own processes, over own pipes
    "engine/bigrun/data/workers.py": {"multiprocessing"},  # the pipe that tells them that it lives
    "engine/bigrun/devices/torch_build.py": {"importlib"},  # finds torch without importing it
    "engine/bigrun/doctor/check.py": {"importlib"},  # this package's own checks, in a process that the command started
    "engine/bigrun/doctor/clock.py": {"ctypes"},  # adjtimex of the C library, which only asks
    "engine/bigrun/doctor/examine.py": {"subprocess"},  # this interpreter, with a module of this package
    "engine/bigrun/doctor/extras.py": {"importlib"},  # metadata; imports installed libraries that bigrun's extras name
    "engine/bigrun/doctor/locks.py": {"subprocess"},  # this interpreter, with a constant program
    "engine/bigrun/doctor/smi.py": {"subprocess"},  # nvidia-smi, with constant words
    "engine/bigrun/doctor/versions.py": {"importlib"},  # metadata
    "engine/bigrun/drill/child.py": {"subprocess"},  # this interpreter, with words of the drill's own
    "engine/bigrun/entry_points.py": {"importlib"},  # metadata; imports what a configuration names
    "engine/bigrun/export/images.py": {"importlib"},  # finds scikit-image's photographs
    "engine/bigrun/export/target.py": {"importlib"},  # the target's library, by a constant name
    "engine/bigrun/export/targets/timm.py": {"importlib"},  # the same
    "engine/bigrun/export/targets/torchhub.py": {"importlib", "torch.hub"},  # hubconf.py that was written just before
    "engine/bigrun/export/targets/transformers.py": {"importlib"},  # the same as timm
    "engine/bigrun/imports.py": {"importlib"},  # what plugins import by constant names: torchao
    "engine/bigrun/launch/group.py": {"subprocess"},  # this interpreter, with this command's own words
    "engine/bigrun/lock.py": {"socket"},  # gethostname
    "engine/bigrun/parallel.py": {"multiprocessing"},  # pickles between own processes, over own pipes
    "engine/bigrun/process.py": {"ctypes"},  # mallopt of the C library
    "engine/bigrun/process_end.py": {"ctypes"},  # fflush of the C library
    "engine/bigrun/provenance/packages.py": {"importlib", "urllib"},  # metadata; urllib.parse splits a URL
    "engine/bigrun/provenance/repository.py": {"subprocess"},  # git, without what its configuration names
    "engine/bigrun/redaction.py": {"urllib"},  # urllib.parse spells, and fetches nothing
    "engine/bigrun/scribe/logger.py": {"importlib"},  # whether a library is installed
    "engine/bigrun/scribe/scribe.py": {"subprocess"},  # this interpreter, with a module that the plugin names itself
    "engine/bigrun/start_again.py": {"os.execv"},  # this interpreter, with this command's own words
    "engine/bigrun/supervisor/attempt.py": {"ctypes"},  # prctl of the C library
    "engine/bigrun/supervisor/child.py": {"subprocess"},  # this interpreter, with this command's own words
    "engine/bigrun/tuner/isolation.py": {
        "subprocess"
    },  # this interpreter, with a module of this package; order on stdin
    "engine/bigrun/unimported.py": {"importlib"},  # finds a source file to read, and imports nothing
    "engine/bigrun/weights/read.py": {"pickle", "torch.load"},  # pickle's exception; weights_only=True, see below
    "plugins/bigrun_attention/memory_efficient.py": {"importlib"},  # xformers, by constant names
    "plugins/bigrun_ct_import/job.py": {"importlib"},  # whether pydicom, nibabel and nrrd are installed
    "plugins/bigrun_cuda/blocks.py": {"importlib"},  # whether triton is installed
    "plugins/bigrun_demo/photos.py": {"importlib"},  # finds the wheels' photographs
    "plugins/bigrun_fetch/chest_ct.py": {"importlib"},  # the entry point of `bigrun data import`
    "plugins/bigrun_fetch/packages.py": {"importlib", "subprocess"},  # pip and apt-get, with lists of words
    "plugins/bigrun_fetch/photos.py": {"importlib"},  # finds the wheels' photographs
    "plugins/bigrun_memory/prediction.py": {
        "subprocess"
    },  # this interpreter: `bigrun plan` of the run's own config.toml
    "plugins/bigrun_report/command.py": {"webbrowser"},  # --open: the page that was just written
    "plugins/bigrun_report/drawing.py": {"subprocess"},  # this interpreter: `bigrun report` of the run's own directory
    "plugins/bigrun_slurm/plugin.py": {"subprocess"},  # scontrol requeue, a list of words
    "plugins/bigrun_telemetry/amd_smi.py": {"importlib"},  # amdsmi, by a constant name
    "plugins/bigrun_telemetry/nvml.py": {"importlib"},  # pynvml, by a constant name
    "plugins/bigrun_watchdog/outside.py": {"subprocess"},  # this interpreter, with a file of this package
    "plugins/bigrun_watchdog/stacks.py": {"socket"},  # gethostname
}


def found_in(tree: ast.AST) -> Iterator[str]:
    """The dangerous modules, calls and attributes that a file uses."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from {alias.name.split(".")[0] for alias in node.names} & DANGEROUS_MODULES
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from {node.module.split(".")[0]} & DANGEROUS_MODULES
            yield from {f"{node.module}.{alias.name}" for alias in node.names} & DANGEROUS_ATTRIBUTES
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in DANGEROUS_CALLS:
            yield node.func.id
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in DANGEROUS_ATTRIBUTES:
            yield ast.unparse(node)


def calls(name: str) -> Iterator[tuple[Path, ast.Call]]:
    """Every call of a dotted name in the source."""
    return ((path, node) for path, node, called in every_call() if called.endswith(name))


@functools.cache
def every_call() -> list[tuple[Path, ast.Call, str]]:
    """Every call in the source, with what is called."""
    nodes = ((path, node) for path in SOURCES for node in ast.walk(parsed(path)))
    return [(path, node, ast.unparse(node.func)) for path, node in nodes if isinstance(node, ast.Call)]


def test_code_programs_and_networks_are_reached_in_reviewed_places_only() -> None:
    found = {}
    for path in SOURCES:
        dangers = set(found_in(parsed(path)))
        if dangers and "testing" not in path.parts:
            found[str(path.relative_to(ROOT))] = dangers
    assert found == REVIEWED


def test_what_is_dangerous_is_found() -> None:
    lines = (
        "import pickle", "from urllib.request import urlopen", "eval(x)", "torch.load(path)", "from torch import hub",
        "import importlib.util", "os.system('x')", "torch.jit.load(p)",
    )  # fmt: skip
    assert all(list(found_in(ast.parse(line))) for line in lines)
    assert not list(found_in(ast.parse("network.eval(); safetensors.load(x); json.loads(y); re.compile(z)")))


def test_torch_files_are_read_without_code_and_without_a_way_back() -> None:
    """The one call says weights_only=True itself: what the environment says then does not count."""
    ((path, call),) = calls("torch.load")
    assert path.name == "read.py"
    arguments = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    assert arguments["weights_only"] == "True"
    assert "pickle_module" not in arguments


def test_no_program_is_started_through_a_shell() -> None:
    for name in ("subprocess.run", "subprocess.Popen", "subprocess.call", "subprocess.check_output"):
        for path, call in calls(name):
            assert "shell" not in {keyword.arg for keyword in call.keywords}, path
            assert not isinstance(call.args[0], ast.Constant | ast.JoinedStr), path


def test_the_lowest_torch_has_no_known_way_around_weights_only() -> None:
    """CVE-2025-32434 was in torch below 2.6, CVE-2026-24747 below 2.10."""
    dependencies = tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    (floor,) = (match for text in dependencies if (match := re.fullmatch(r"torch>=(\d+)\.(\d+)(?:\.\d+)?", text)))
    assert tuple(map(int, floor.groups())) >= (2, 10)
    assert "CVE-2025-32434" in SECURITY
    assert "CVE-2026-24747" in SECURITY


def test_security_md_names_files_that_exist() -> None:
    names = re.findall(r"`((?:engine|plugins|tests|docs)/[^`*]+|pyproject\.toml)`", SECURITY)
    links = re.findall(r"\]\(([^)#:]+)[^)]*\)", SECURITY)
    assert len(names) > 5
    assert not [name for name in [*names, *links] if not (ROOT / name).exists()]


def test_security_md_names_every_secret_word() -> None:
    from bigrun.redaction import ENDINGS

    assert not [word for word in ENDINGS if f"`{word}`" not in SECURITY]
