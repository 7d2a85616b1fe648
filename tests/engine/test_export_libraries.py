"""An export where the library is missing or broken, and one where torch is all there is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from bigrun.cli import main
from bigrun.export.export import export_checkpoint
from bigrun.export.source import find_checkpoint, read_source
from bigrun.testing.runner import Runner

MISSING = "raise ModuleNotFoundError(\"No module named 'timm'\", name='timm')"
BROKEN = "raise RuntimeError('operator torchvision::nms does not exist')"


def export(runner: Runner, monkeypatch: pytest.MonkeyPatch, library: str, *arguments: str) -> tuple[Result, Path]:
    """`bigrun export --to timm` where importing timm runs this source."""
    (runner.tmp_path / "path").mkdir()
    (runner.tmp_path / "path/timm.py").write_text(library, encoding="utf-8")
    monkeypatch.syspath_prepend(runner.tmp_path / "path")
    for name in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)
    run = runner.run(steps=1).directory
    return CliRunner().invoke(main, ["export", str(run), "--to", "timm", *arguments]), run / "export"


@pytest.mark.parametrize(
    ("library", "reason"),
    [
        (MISSING, "not verified: timm is not installed (pip install timm)"),
        (BROKEN, "not verified: timm cannot be imported here (RuntimeError: operator torchvision::nms does not exist)"),
    ],
    ids=["missing", "broken"],
)
def test_without_the_library_the_export_is_written_and_says_so(
    library: str, reason: str, bigrunner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, folder = export(bigrunner, monkeypatch, library)
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[-1] == reason
    assert f"N{reason[1:]}." in (folder / "timm-step-1/README.md").read_text(encoding="utf-8")


def test_an_export_that_must_be_verified_is_not_written(bigrunner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    done, folder = export(bigrunner, monkeypatch, MISSING, "--require-verified")
    assert done.exit_code == 1
    assert "error: not verified: timm is not installed" in done.output
    assert not folder.exists()


def test_the_hub_folder_needs_torch_and_nothing_else(bigrunner: Runner) -> None:
    run = bigrunner.run(steps=1).directory
    folder = export_checkpoint(run, "torchhub", bigrunner.tmp_path / "hub")
    script = """
import sys
for name in ("bigrun", "safetensors", "attr", "attrs", "cattrs", "pluggy", "tomli", "timm", "transformers"):
    sys.modules[name] = None
import torch
network = torch.hub.load(sys.argv[1], "backbone", source="local")
images = torch.linspace(-1, 1, 3 * 24 * 40).view(1, 3, 24, 40)
with torch.no_grad():
    torch.save([network(images), *network.forward_features(images).values()], sys.argv[2])
new = torch.hub.load(sys.argv[1], "backbone", source="local", pretrained=False)
assert new.state_dict().keys() == network.state_dict().keys()
assert torch.equal(new.rope_embed.periods, network.rope_embed.periods)
assert not torch.equal(new.cls_token, network.cls_token)
try:
    network(torch.zeros(1, 3, 20, 24))
except ValueError as error:
    assert "multiples of 8" in str(error)
else:
    raise AssertionError("sides that are no multiples of a patch were taken")
"""
    features = bigrunner.tmp_path / "features.pt"
    subprocess.run(
        [sys.executable, "-c", script, str(folder), str(features)],
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    network = read_source(find_checkpoint(run, print)).backbone()
    with torch.no_grad():
        ours = network(torch.linspace(-1, 1, 3 * 24 * 40).view(1, 3, 24, 40))
    for got, expected in zip(
        torch.load(features), [ours.cls, ours.cls, ours.storage, ours.patches, ours.prenorm], strict=True
    ):
        torch.testing.assert_close(got, expected)
