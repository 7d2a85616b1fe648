"""Bar 34: a pickle that would run code stands where files are read. None of it runs: the canary is never there."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typed import Done, Typed, forge, held, train_once

from bigrun.checkpoint.disk import hash_file
from bigrun.errors import CheckpointError
from bigrun.lock import LOCK
from bigrun_gram.shelf import Shelf


class Malicious:
    """Whoever unpickles this makes the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return exec, (f"import pathlib; pathlib.Path({str(self.canary)!r}).touch()",)


def plain(canary: Path) -> bytes:
    return pickle.dumps(Malicious(canary))


def oldest_protocol(canary: Path) -> bytes:
    return pickle.dumps(Malicious(canary), protocol=0)


def of_torch(canary: Path, *, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    weights = {"patch_embed.proj.weight": torch.zeros(4, 3, 2, 2), "x": Malicious(canary)}
    torch.save(weights, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def legacy_torch(canary: Path) -> bytes:
    return of_torch(canary, zipped=False)


def legacy_that_seems_zipped(canary: Path) -> bytes:
    """A zip file is known by its end, torch's by its beginning: this is the old format to one, and zip to the other."""
    file = io.BytesIO(legacy_torch(canary))
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("data.pkl", plain(canary))
    return file.getvalue()


def zipped(*names: str) -> Callable[[Path], bytes]:
    def payload(canary: Path) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name in names:
                archive.writestr(name, plain(canary))
            archive.writestr("archive/version", "3\n")
            archive.writestr("archive/byteorder", "little")
        return file.getvalue()

    return payload


def tarred(canary: Path) -> bytes:
    """The oldest format of torch, in which CVE-2025-32434 was."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            member = tarfile.TarInfo(name)
            content = plain(canary)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


PAYLOADS: dict[str, Callable[[Path], bytes]] = {
    "plain": plain,
    "oldest-protocol": oldest_protocol,
    "torch-zip": of_torch,
    "torch-legacy": legacy_torch,
    "legacy-that-seems-zipped": legacy_that_seems_zipped,
    "torch-tar": tarred,
    "zip-of-a-pickle": zipped("archive/data.pkl"),
    "torchscript": zipped("archive/constants.pkl", "archive/data.pkl", "archive/code/__torch__.py"),
}
SOME = {name: PAYLOADS[name] for name in ("plain", "torch-zip")}
FIRST = [pytest.param(plain, id="plain"), pytest.param(of_torch, id="torch-zip", marks=pytest.mark.slow)]
EVERY = [pytest.param(p, id=name, marks=() if name in SOME else pytest.mark.slow) for name, p in PAYLOADS.items()]


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    """A run of four steps with checkpoints of steps 2 and 4, which is to go on to step 5."""
    shutil.copytree(trained_once / "runs", tmp_path / "runs")
    return Typed(tmp_path, monkeypatch, run={"max_steps": 5}, data={"path": str(trained_once / "images")})


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_once(tmp_path_factory, 4)


def expect(done: Done, canary: Path, code: int, *words: str) -> None:
    assert not canary.exists(), f"CODE WAS RUN\n{done.said}"
    assert done.code == code, done.said
    assert "Traceback" not in done.said
    for word in words:
        assert word in done.said


# -- the payloads can do harm -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "oldest-protocol"])
def test_a_payload_harms_whoever_unpickles_it(canary: Path, name: str) -> None:
    pickle.loads(PAYLOADS[name](canary))
    assert canary.exists()


@pytest.mark.parametrize(
    "name", ["torch-zip", "torch-legacy", "legacy-that-seems-zipped", "torch-tar", "zip-of-a-pickle"]
)
@pytest.mark.filterwarnings("ignore")
def test_a_payload_harms_whoever_lets_torch_run_code(canary: Path, name: str) -> None:
    file = canary.with_name("weights.pth")
    file.write_bytes(PAYLOADS[name](canary))
    try:
        torch.load(file, weights_only=False)
    except Exception as error:  # after the harm
        print(error)
    assert canary.exists()


# -- a run that goes on -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["student.safetensors", "teacher.safetensors", "optimizer.safetensors", "state.json", "config.toml"]
)
@pytest.mark.parametrize("payload", EVERY)
def test_bar_34_in_a_checkpoint_whose_manifest_was_forged(
    trained: Typed, canary: Path, payload: Callable[[Path], bytes], name: str
) -> None:
    (trained.checkpoint(4) / name).write_bytes(payload(canary))
    forge(trained.checkpoint(4))
    expect(trained.train(), canary, 1, f"step-00000004/{name}: cannot be read")


@pytest.mark.parametrize(
    "name", ["frozen.safetensors", "MANIFEST.json", ".metadata", "evil.pkl", "data.pkl", "__init__.py"]
)
@pytest.mark.parametrize("payload", FIRST)
def test_bar_34_in_a_checkpoint_is_passed_over(
    trained: Typed, canary: Path, payload: Callable[[Path], bytes], name: str
) -> None:
    """What the manifest does not know as it is now costs the checkpoint."""
    (trained.checkpoint(4) / name).write_bytes(payload(canary))
    expect(
        trained.train(), canary, 0, "is damaged and was passed over", "resumed from runs/tiny/checkpoints/step-00000002"
    )


@pytest.mark.parametrize("payload", SOME.values(), ids=SOME)
def test_bar_34_a_file_more_in_a_forged_checkpoint_is_never_opened(
    trained: Typed, canary: Path, payload: Callable[[Path], bytes]
) -> None:
    (trained.checkpoint(4) / "evil.pkl").write_bytes(payload(canary))
    forge(trained.checkpoint(4))
    expect(trained.train(), canary, 0, "resumed from runs/tiny/checkpoints/step-00000004")


@pytest.mark.parametrize("payload", FIRST)
@pytest.mark.parametrize(
    "name",
    ["config.toml", ".config.toml.new", "metrics.jsonl", "events.jsonl", "sitecustomize.py", "checkpoints/.metadata",
     "checkpoints/step-00000009/data.pkl", "checkpoints/.tmp-00000009-" + 32 * "0" + "/state.json",
     "emergency/flight.json", "emergency/step-00000004/flight.json", "emergency/step-00000004/MANIFEST.json",
     "gram-anchoring/candidates/step-00000001.safetensors", "tensorboard/events.out", "supervisor/log.jsonl"],
)  # fmt: skip
def test_bar_34_in_a_run_directory_is_not_read_as_code(
    trained: Typed, canary: Path, payload: Callable[[Path], bytes], name: str
) -> None:
    path = trained.run / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(payload(canary))
    expect(trained.train(), canary, 0, "resumed from runs/tiny/checkpoints/step-00000004", "finished: 5")


@pytest.mark.parametrize("payload", SOME.values(), ids=SOME)
def test_bar_34_as_branch_json(trained: Typed, canary: Path, payload: Callable[[Path], bytes]) -> None:
    (trained.run / "branch.json").write_bytes(payload(canary))
    expect(trained.train(), canary, 2, "branch.json: cannot be read")


@pytest.mark.parametrize("payload", EVERY)
def test_bar_34_as_run_lock(trained: Typed, canary: Path, payload: Callable[[Path], bytes]) -> None:
    (trained.run / LOCK).write_bytes(payload(canary))
    expect(trained.train(), canary, 0, "finished: 5")


def test_bar_34_in_the_lock_of_a_run_that_is_alive(trained: Typed, canary: Path) -> None:
    """A process that is refused reads who is there."""
    with held(trained.run):
        (trained.run / LOCK).write_bytes(plain(canary))
        expect(trained.train(), canary, 2, "is in use by")


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_bar_34_as_a_candidate_with_the_right_hash(
    tmp_path: Path, canary: Path, payload: Callable[[Path], bytes]
) -> None:
    shelf = Shelf(tmp_path / "candidates")
    shelf.folder.mkdir()
    shelf.path(7).write_bytes(payload(canary))
    with pytest.raises(CheckpointError, match="cannot be read"):
        shelf.get(7, hash_file(shelf.path(7)))
    assert not canary.exists()


# -- weights to start from --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_bar_34_as_init_path(
    tmp_path: Path, canary: Path, payload: Callable[[Path], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the file is called, and whatever the environment tells torch's reader."""
    typed = Typed(tmp_path, monkeypatch)
    for suffix, forced in ((".pth", "0"), (".pth", "1"), (".safetensors", "1"), ("", "1")):
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", forced)
        (tmp_path / f"weights{suffix}").write_bytes(payload(canary))
        expect(typed.train("--set", f"init.path=weights{suffix}"), canary, 2, "init.path", f"weights{suffix}: ")
    expect(typed.type("check", "tiny.toml", "--set", "init.path=weights.pth"), canary, 2, "init.path")
    assert not typed.run.exists()


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.safetensors", "model.pth", "data.pkl", "teacher.safetensors"]
)
@pytest.mark.parametrize("payload", FIRST)
def test_bar_34_in_a_directory_as_init_path(
    trained: Typed, canary: Path, payload: Callable[[Path], bytes], name: str
) -> None:
    folder = trained.folder / "weights"
    folder.mkdir()
    (folder / name).write_bytes(payload(canary))
    expect(trained.train("--set", "init.path=weights", "--run-dir", "new"), canary, 2, "init.path")


@pytest.mark.parametrize("payload", SOME.values(), ids=SOME)
def test_bar_34_as_an_index_or_one_of_its_files(trained: Typed, canary: Path, payload: Callable[[Path], bytes]) -> None:
    index = trained.folder / "model.safetensors.index.json"
    index.write_bytes(payload(canary))
    words = ("--set", f"init.path={index.name}", "--run-dir", "new")
    expect(trained.train(*words), canary, 2, "is not an index")
    index.write_text(json.dumps({"weight_map": {"cls_token": "one.bin"}}))
    (trained.folder / "one.bin").write_bytes(payload(canary))
    expect(trained.train(*words), canary, 2, "one.bin: is not a safetensors file")


def test_bar_34_torch_may_not_be_told_to_build_objects(trained: Typed, canary: Path) -> None:
    """Objects whose class is harmless are refused as well; a table of tensors is read."""
    torch.save({"network": torch.nn.Linear(2, 2)}, trained.folder / "network.pth")
    expect(
        trained.train("--set", "init.path=network.pth", "--run-dir", "new"), canary, 2, "code in a file is never run"
    )


# -- a checkpoint of somebody else's ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["teacher.safetensors", "optimizer.safetensors", "state.json", "config.toml", "MANIFEST.json"]
)
@pytest.mark.parametrize("payload", SOME.values(), ids=SOME)
def test_bar_34_in_a_checkpoint_to_begin_at(
    trained: Typed, canary: Path, payload: Callable[[Path], bytes], name: str
) -> None:
    source = trained.checkpoint(4)
    (source / name).write_bytes(payload(canary))
    is_damaged = name == "MANIFEST.json"
    if not is_damaged:
        forge(source)
    expect(trained.train("--from", source, "--run-dir", "new"), canary, 2 if is_damaged else 1, name)


@pytest.mark.parametrize("name", ["teacher.safetensors", "state.json", "config.toml", "MANIFEST.json", "evil.pkl"])
@pytest.mark.parametrize("payload", SOME.values(), ids=SOME)
def test_bar_34_in_a_checkpoint_to_export(
    trained: Typed, canary: Path, payload: Callable[[Path], bytes], name: str
) -> None:
    source = trained.checkpoint(4)
    (source / name).write_bytes(payload(canary))
    is_damaged = name in ("MANIFEST.json", "evil.pkl")
    if not is_damaged:
        forge(source)
    done = trained.type("export", source, "--to", "safetensors", "--out", "out")
    expect(done, canary, 2 if is_damaged else 1, name)
    assert not (trained.folder / "out").exists()


@pytest.mark.parametrize("command", ["list", "verify", "diff", "prune"])
@pytest.mark.parametrize("name", ["teacher.safetensors", "state.json", "config.toml", "MANIFEST.json"])
def test_bar_34_in_a_checkpoint_to_look_at(trained: Typed, canary: Path, name: str, command: str) -> None:
    (trained.checkpoint(4) / name).write_bytes(of_torch(canary))
    if name != "MANIFEST.json":
        forge(trained.checkpoint(4))
    words = {"diff": ("2", "4"), "prune": ("--keep-last", "2")}.get(command, ())
    done = trained.type("checkpoints", command, trained.run, *words)
    expect(done, canary, done.code)
    assert done.code in ((1, 2) if command == "diff" else (0, 1))


# -- a configuration of somebody else's -------------------------------------------------------------------------------


@pytest.mark.parametrize("plugin", ["evil:Evil", "canary-plugin"])
def test_bar_34_a_plugin_that_an_exported_checkpoint_names_is_not_imported(
    trained: Typed, canary: Path, plugin: str
) -> None:
    """Here nobody but the checkpoint has named it."""
    (trained.folder / "evil.py").write_text(f"import pathlib; pathlib.Path({str(canary)!r}).touch()\nclass Evil: ...")
    config = trained.checkpoint(4) / "config.toml"
    config.write_text(f'{config.read_text()}\n[plugins."{plugin}"]\n')
    forge(trained.checkpoint(4))
    expect(trained.type("export", trained.checkpoint(4), "--to", "safetensors", "--out", "out"), canary, 0, "exported")


def test_bar_34_a_module_of_the_current_folder_does_not_stand_in_for_a_library(trained: Typed, canary: Path) -> None:
    """In a real process: `bigrun`, not `python -m bigrun`, which Python itself starts with the folder in front."""
    for name in ("torch", "numpy", "safetensors", "tomli_w"):  # an editable install is found last
        (trained.folder / f"{name}.py").write_text(f"import pathlib; pathlib.Path({str(canary)!r}).touch()")
    command = [sys.executable, "-P", "-c", "from bigrun.__main__ import main; main()", "check", "tiny.toml"]
    done = subprocess.run(command, cwd=trained.folder, capture_output=True, text=True, check=False, timeout=120)
    expect(Done(done.returncode, done.stdout + done.stderr), canary, 0, "valid")


def test_the_weights_that_are_harmless_are_read(trained: Typed) -> None:
    """Or everything above would pass with a reader that refuses everything."""
    teacher = trained.checkpoint(4)
    done = trained.train("--set", f"init.path={teacher}", "--run-dir", "new")
    assert done.code == 0, done.said
    weights = load_file(teacher / "teacher.safetensors")
    torch.save({name: tensor.clone() for name, tensor in weights.items()}, trained.folder / "teacher.pth")
    done = trained.train("--set", "init.path=teacher.pth", "--run-dir", "other")
    assert done.code == 0, done.said
