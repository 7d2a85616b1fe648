"""What a run computes on: facts about it, how it is chosen, and what was set on it."""

from bigrun.devices.facts import CpuFacts, DeviceFacts, HostFacts
from bigrun.devices.planned import Planned
from bigrun.devices.setting import Setting
from bigrun.devices.torch_build import TorchBuild, torch_build

__all__ = ["CpuFacts", "DeviceFacts", "HostFacts", "Planned", "Setting", "TorchBuild", "torch_build"]
