"""What a plan comes to, in plain sentences. Torch-free."""

from __future__ import annotations

from bigrun.planner.host_memory import COPY, HostMemory
from bigrun.planner.plan import Fit, Plan
from bigrun.planner.regrouping import KOLEO_GROUP
from bigrun.planner.savings import savings_line
from bigrun.planner.sizes import human_gib

__all__ = ["advice", "device_verdicts", "host_verdict", "verdicts"]


def verdicts(plan: Plan) -> list[str]:
    """Whether the preset fits as it is, what is the largest that does, and how to run it; then the machine's memory."""
    return [*device_verdicts(plan), *([] if plan.is_unified or plan.device == "cpu" else [host_verdict(plan)])]


def device_verdicts(plan: Plan) -> list[str]:
    """Of the memory that the device has, and of the machine's where the device shares it."""
    need = human_gib(plan.taken_bytes)
    if plan.device == "cpu":
        need += f", {human_gib(plan.host.bytes)} of them for what is beside the tensors"
    elif plan.is_unified:
        need += f", and the host {human_gib(plan.host.bytes)} beside it"
    if plan.device_memory_bytes is None and plan.device == "cpu":
        return [f"it needs {need}, which {fits(plan.taken_bytes, plan.host)}"]
    if plan.device_memory_bytes is None:
        return [f"it needs {need}: whether that fits is n/a, see --device-memory and --gpu"]
    memory = human_gib(plan.device_memory_bytes)
    shared = ""
    if plan.is_unified and plan.device != "cpu":
        shared = f", shared with {whose(plan.host)} {human_gib(plan.host.ram_bytes)}"
    own = f"micro-batch {plan.micro_batch} x {plan.accumulate}"
    how = "fits" if plan.fits_as_it_is else "does not fit"
    said = [f"as it is, with {own}, it {how} in {memory}{shared}: it needs {need}"]
    without, with_it = plan.largest("none"), plan.largest("full")
    if without is not None and with_it is not None:
        said.append(comparison(without, with_it, memory))
    if not plan.fits_as_it_is:
        said += [text for text in (advice(plan), spared(plan)) if text]
    return said


def host_verdict(plan: Plan) -> str:
    """Of the machine's memory, where the device has its own."""
    host, copy = plan.host, plan.host.by_category.get(COPY, 0)
    text = f"host memory: {human_gib(host.bytes)}, which {fits(host.bytes, host)}"
    if host.bytes <= host.ram_bytes or not copy:
        return text
    enough = "" if host.bytes - copy <= host.ram_bytes else ", which is not enough: fewer workers, smaller prefetch"
    return f"{text}; --set run.background_checkpoints=false takes {human_gib(copy)} less{enough}"


def fits(size: int, host: HostMemory) -> str:
    how = "fits" if size <= host.ram_bytes else "does not fit"
    return f"{how} in {whose(host)} {human_gib(host.ram_bytes)}"


def whose(host: HostMemory) -> str:
    return "this machine's (see --ram)" if host.is_this_machine else "the machine's"


def spared(plan: Plan) -> str | None:
    """What makes room whatever the micro-batch is, where no micro-batch fits without activation checkpointing."""
    without = plan.largest("none")
    return savings_line(plan.savings) if without is not None and without.micro_batch is None else None


def comparison(without: Fit, with_it: Fit, memory: str) -> str:
    if without.micro_batch is None and with_it.micro_batch is None:
        return (
            f"does not fit in {memory}, not even with activation checkpointing and the smallest micro-batch: "
            f"it needs {human_gib(with_it.need_bytes)}"
        )
    if without.micro_batch is None:
        return f"does not fit in {memory} without activation checkpointing; with it, micro-batch {shape(with_it)}"
    return (
        f"fits in {memory} without activation checkpointing with micro-batch {shape(without)}; "
        f"with it, {shape(with_it)}"
    )


def shape(fit: Fit) -> str:
    return f"{fit.micro_batch} x {fit.accumulate}"


def advice(plan: Plan) -> str | None:
    """The options with which the run fits and learns the same, for a message of an allocation that failed as well; the
    least activation checkpointing that does. Where KoLeo's groups cannot stay, that is said. None where nothing fits,
    or nothing is known."""
    order = {"none": 0, "selective": 1, "full": 2}
    fits = [fit for fit in plan.fits if fit.micro_batch is not None]
    if not fits:
        return None
    best = min(fits, key=lambda fit: (not stays(fit), order.get(fit.activation_checkpointing, len(order))))
    sets = [f"--set data.micro_batch={best.micro_batch}"]
    if best.activation_checkpointing != plan.activation_checkpointing:
        sets.append(f"--set hardware.activation_checkpointing={best.activation_checkpointing}")
    said, groups = f"the effective batch stays {plan.effective_batch}", best.regrouping
    if groups is not None and stays(best):
        sets.append(f"--set {KOLEO_GROUP}={groups.own}")
    elif groups is not None:
        said += f", but {KOLEO_GROUP} becomes {groups.chosen} instead of {groups.own}: another objective"
    return f"run it with {' '.join(sets)}: {said}"


def stays(fit: Fit) -> bool:
    """Whether the objective can."""
    return fit.regrouping is None or fit.regrouping.can_stay
