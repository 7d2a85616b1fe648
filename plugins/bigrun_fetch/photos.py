"""photos: photographs out of the wheels of scikit-image and scikit-learn."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import attrs

from bigrun.errors import UsageError
from bigrun_fetch.archives import check_hash, read_members
from bigrun_fetch.packages import download_wheels

__all__ = ["Photos"]

REQUIREMENTS = {"skimage": "scikit-image>=0.24", "sklearn": "scikit-learn>=1.5"}


@attrs.frozen
class Photos:
    """Photographs as they are in the wheels.

    Attributes:
        files: sha256 of each by its path in a wheel.
    """

    name: ClassVar[str] = "photos"
    summary: ClassVar[str] = "20 photographs, 170 to 1,411 pixels, colour and grey"
    licence: ClassVar[str] = (
        "public domain, CC0 or no known restrictions, as scikit-image's documentation says of each; motorcycle_left: "
        "Middlebury Stereo 2014 (Scharstein et al., GCPR 2014); china: CC BY 2.0 danielbuechele, flower: CC BY 2.0 "
        "vultilion (both Flickr)"
    )
    source: ClassVar[str] = "the packages scikit-image and scikit-learn, as installed here or from PyPI"
    given: ClassVar[str] = "the wheels of scikit-image and of scikit-learn (--from twice)"
    images: ClassVar[str] = "."

    files: Mapping[str, str] = {
        "skimage/data/astronaut.png": "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
        "skimage/data/brick.png": "7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf",
        "skimage/data/camera.png": "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a",
        "skimage/data/cell.png": "8d23a7fb81f7cc877cd09f330357fc7f595651306e84e17252f6e0a1b3f61515",
        "skimage/data/chelsea.png": "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
        "skimage/data/clock_motion.png": "f029226b28b642e80113d86622e9b215ee067a0966feaf5e60604a1e05733955",
        "skimage/data/coffee.png": "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
        "skimage/data/coins.png": "f8d773fc9cfa6f4d8e5942dc34d0a0788fcaed2a4fefbbed0aef5398d7ef4cba",
        "skimage/data/grass.png": "b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89",
        "skimage/data/gravel.png": "c48615b451bf1e606fbd72c0aa9f8cc0f068ab7111ef7d93bb9b0f2586440c12",
        "skimage/data/hubble_deep_field.jpg": "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4",
        "skimage/data/ihc.png": "f8dd1aa387ddd1f49d8ad13b50921b237df8e9b262606d258770687b0ef93cef",
        "skimage/data/moon.png": "78739619d11f7eb9c165bb5d2efd4772cee557812ec847532dbb1d92ef71f577",
        "skimage/data/motorcycle_left.png": "db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179",
        "skimage/data/page.png": "341a6f0a61557662b02734a9b6e56ec33a915b2c41886b97509dedf2a43b47a3",
        "skimage/data/retina.jpg": "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6",
        "skimage/data/rocket.jpg": "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
        "skimage/data/text.png": "bd84aa3a6e3c9887850d45d606c96b2e59433fbef50338570b63c319e668e6d1",
        "sklearn/datasets/images/china.jpg": "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29",
        "sklearn/datasets/images/flower.jpg": "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638",
    }

    def make(self, folder: Path, given: Sequence[Path], scratch: Path) -> None:
        """Fill a new folder.

        Raises:
            UsageError: a photograph cannot be had, or is another.
        """
        found = {} if given else self._installed()
        missing = {name.partition("/")[0] for name in self.files if name not in found}
        wheels = list(given) or (
            download_wheels([REQUIREMENTS[top] for top in sorted(missing)], scratch) if missing else []
        )
        for wheel in wheels:
            found |= read_members(wheel, self.files)
        if left := [name for name in self.files if name not in found]:
            raise UsageError(f"{', '.join(map(str, wheels))}: have no {', '.join(left)}; expected {self.given}")
        folder.mkdir()
        for name, data in found.items():
            (folder / name.rpartition("/")[2]).write_bytes(data)

    def _installed(self) -> dict[str, bytes]:
        """Those of the installed packages, which are not imported for it."""
        found: dict[str, bytes] = {}
        for top in REQUIREMENTS:
            spec = importlib.util.find_spec(top)
            for site in spec.submodule_search_locations or () if spec else ():
                paths = {name: Path(site).parent / name for name in self.files if name.startswith(f"{top}/")}
                found |= {
                    name: check_hash(str(p), p.read_bytes(), self.files[name])
                    for name, p in paths.items()
                    if p.is_file()
                }
        return found
