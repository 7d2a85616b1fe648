"""What a plan comes to, in plain sentences. Torch-free."""

from __future__ import annotations

from bigrun.planner.plan import Fit, Plan
from bigrun.planner.sizes import human_gib

__all__ = ["advice", "verdicts"]


def verdicts(plan: Plan) -> list[str]:
    """Whether the preset fits as it is, what is the largest that does, and how to run it."""
    if plan.device_memory_bytes is None:
        return [f"it needs {human_gib(plan.need_bytes)}: whether that fits is n/a, see --device-memory and --gpu"]
    memory = human_gib(plan.device_memory_bytes)
    own = f"micro-batch {plan.micro_batch} x {plan.accumulate}"
    fits = "fits" if plan.fits_as_it_is else "does not fit"
    said = [f"as it is, with {own}, it {fits} in {memory}: it needs {human_gib(plan.need_bytes)}"]
    without, with_it = plan.largest("none"), plan.largest("full")
    if without is not None and with_it is not None:
        said.append(comparison(without, with_it, memory))
    if not plan.fits_as_it_is and (text := advice(plan)):
        said.append(text)
    return said


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
    least activation checkpointing that does. None where nothing fits, or nothing is known."""
    order = {"none": 0, "selective": 1, "full": 2}
    fits = [fit for fit in plan.fits if fit.micro_batch is not None]
    if not fits:
        return None
    best = min(fits, key=lambda fit: order.get(fit.activation_checkpointing, len(order)))
    sets = [f"--set data.micro_batch={best.micro_batch}"]
    if best.activation_checkpointing != plan.activation_checkpointing:
        sets.append(f"--set hardware.activation_checkpointing={best.activation_checkpointing}")
    return f"run it with {' '.join(sets)}: the effective batch stays {plan.effective_batch}"
