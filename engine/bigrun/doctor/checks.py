"""All checks, in the order in which they are made: each stands on those before it."""

from __future__ import annotations

from bigrun.doctor.check import Check

__all__ = ["CHECKS"]

CHECKS = (
    Check("versions", "bigrun.doctor.versions:version_rows"),
    Check("machine", "bigrun.doctor.machine:machine_rows"),
    Check("memory files", "bigrun.doctor.machine:memory_file_rows"),
    Check("GPU", "bigrun.doctor.present:gpu_rows"),
    Check("driver", "bigrun.doctor.driver:driver_rows"),
    Check("device", "bigrun.doctor.device:device_rows"),
    Check("device memory", "bigrun.doctor.memory:memory_rows", needs="device"),
    Check("file system", "bigrun.doctor.filesystem:filesystem_rows"),
    Check("saving", "bigrun.doctor.saving:saving_rows", needs="disk"),
    Check("lock", "bigrun.doctor.locks:lock_rows", needs="disk"),
    Check("clock", "bigrun.doctor.clock:clock_rows", needs="disk"),
    Check("disk speed", "bigrun.doctor.disk:disk_rows", needs="disk", limit_seconds=120),
    Check("matrix products", "bigrun.doctor.products:product_rows", needs="device"),
    Check("attention", "bigrun.doctor.attention:attention_rows", needs="device"),
    Check("computing speed", "bigrun.doctor.speed:speed_rows", needs="device", in_quick=False),
    Check("memory speed", "bigrun.doctor.bandwidth:bandwidth_rows", needs="device", in_quick=False),
    Check("extras", "bigrun.doctor.extras:extra_rows"),  # last: it imports what may be broken
)
