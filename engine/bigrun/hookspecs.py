"""Every hook of the engine, in calling order. This file and `loop.py` are the whole engine; the rest are its parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bigrun.markers import changes_training, hookspec

if TYPE_CHECKING:
    import torch

    from bigrun.anomaly import Action, Anomaly
    from bigrun.data.dataset import Batch, Dataset, Samples
    from bigrun.data.tone import Tone
    from bigrun.data.views import ExtraView
    from bigrun.events import Event
    from bigrun.objective.base import Objective, Outputs
    from bigrun.plugins import Plugins
    from bigrun.run import Run

__all__ = ["Hooks"]


class Hooks(Protocol):
    """What a plugin can answer. The name of a hook states its calling rule.

        build_x        first answer wins; the engine's own `defaults.py` answers last
        plural noun    a contribution; all answers are collected
        configure_x    change the given thing in place
        before_x       brackets one line of the loop, as does after_x
        on_x           something has happened (only on_anomaly answers; first answer wins)

    The run calls them in this order:

        configure_hooks, configure_runtime, configure_device, hardware_defaults
        build_dataset, build_tone, extra_views, build_objective, frozen_modules, configure_model, build_optimizer
        [a checkpoint is restored], build_loader, header_lines, on_start
        for every step:
            before_step
            [teacher targets for the whole window]
            per micro-batch: [forward], loss_terms, [backward], after_backward
            [is every number finite?] before_update
            on_anomaly for each anomaly reported until here
            [optimizer, teacher], after_update          unless the answer leaves the step out
            after_step, now and then on_metrics
            on_anomaly for each anomaly reported since
            now and then [a save begins], on_checkpoint of one that is on the disk
        [the last save], on_checkpoint
        on_finish or on_error, teardown
        [roll-back: teardown only, then all of this again with new plugins]
    and beside a run, of a checkpoint (bigrun monitor):
        all up to configure_model, measurements, teardown

    Implement a hook as a method of the same name, marked with `bigrun.hookimpl`, with any subset of its
    parameters, as ordinary parameters without defaults. Return types here are what the caller gets: for a
    contribution the list of all answers, of which an implementation returns one.

    A run may have several processes. `Processes` says of a hook which of them call it, and whether collectives are
    allowed in it. A collective is whatever waits for the same call of all processes: methods of `run.peers`,
    torch.distributed, and the forward pass of a network that is spread over several GPUs. So whoever looks at features
    does it on all processes in the same step, and writes files on the main one; what a clock or a file decides is
    decided there and told (`run.peers.by_main`). An observer that fails on one process is silent there at once, on the
    others from the next step on: what may fail on one process alone belongs behind its last collective.
    """

    # -- before the run ---------------------------------------------------------------------------------------

    @hookspec
    def configure_hooks(self, plugins: Plugins) -> None:
        """Add hooks of your own, with `plugins.add_hooks(Class)`, for other plugins to implement.

        When: right after the plugins were created, before anything else.
        Called: once.
        Processes: all; no collectives: they have not met yet.
        Result: none.
        If it raises: the run does not start.
        """

    @hookspec
    @changes_training
    def configure_runtime(self, run: Run) -> None:
        """Set up the process: environment variables, allocator, matmul precision, process-wide flags.

        When: before the device is chosen and before any tensor exists; `run` has only config and directory.
        Called: once.
        Processes: all; no collectives: they have not met yet.
        Result: none; undo in `teardown` what should not outlive the run.
        If it raises: the run does not start.
        """

    @hookspec
    @changes_training
    def configure_device(self, run: Run) -> None:
        """Set up the device: precision of matrix products, kernels of attention, libraries, limits.

        When: after the device is chosen and its facts are read (`run.device`, `run.facts`), before anything is on it.
        Called: once.
        Processes: all, in the same order; collectives are allowed.
        Result: none; report what was set with `run.record_setting`, and undo in `teardown` what should not outlive the
            run.
        If it raises: the run does not start.
        """

    @hookspec
    @changes_training
    def hardware_defaults(self, run: Run) -> list[Mapping[str, tuple[Any, str]]]:
        """Choose values for the device: of options that neither the preset nor the command line has set.

        When: after `configure_device`; from here on they are in `run.config`. `bigrun plan` asks for a GPU that is not
            there, with its facts in `run.facts` and without `configure_device`: go by the facts alone.
        Called: once; all answers are collected, names must differ.
        Processes: all, in the same order; collectives are allowed.
        Result: option -> (value, why), of `data.micro_batch`, `data.workers`, `data.prefetch`,
            `hardware.activation_checkpointing` and `hardware.pin_memory`, on which what is learnt does not depend.
        If it raises: the run does not start.
        """

    @hookspec(firstresult=True)
    @changes_training
    def build_dataset(self, run: Run) -> Dataset:
        """Bring the images: a map from index to one decoded image `(C, H, W)`, uint8, uint16 or float32.

        When: after the device is known.
        Called: once, until one plugin answers.
        Processes: all, in the same order; collectives are allowed.
        Result: a `Dataset`, or None to leave it to the next; the default reads the folder `data.path`.
        If it raises: the run does not start.
        """

    @hookspec(firstresult=True)
    @changes_training
    def build_tone(self, run: Run) -> Tone:
        """Say what stored values mean: the straight line that brings them to [0, 1], for each view of each image.

        When: after the data set is built and before a split divides it: `run.dataset` is what `build_dataset` gave.
        Called: once, until one plugin answers.
        Processes: all, in the same order; collectives are allowed.
        Result: a `Tone` (`bigrun.data.tone`), or None to leave it to the next, as for a data set of somebody else's;
            the default is the whole range of the stored type. It is asked of samples by their indices in the whole data
            set. Extra views have the tone of their global crop.
        If it raises: the run does not start.
        """

    @hookspec
    @changes_training
    def extra_views(self, run: Run) -> list[Mapping[str, ExtraView]]:
        """Ask for more crops of each image: the boxes and flips of the global crops at another size.

        When: after the data set is known.
        Called: once; all answers are collected, names must differ.
        Processes: all, in the same order; collectives are allowed.
        Result: name -> `ExtraView(factor, distorted)`; `factor` x the side of the global crops in use must be
            whole; with `distorted` the crops also share colours, blur and solarisation. They arrive, normalised,
            as `batch.extra[name]`, `(G*b, C, side, side)`.
        If it raises: the run does not start.
        """

    @hookspec(firstresult=True)
    @changes_training
    def build_objective(self, run: Run) -> Objective:
        """Build what is trained: networks, targets and losses.

        When: after the data set and the views; the engine has seeded the random generators.
        Called: once, until one plugin answers.
        Processes: all, in the same order; collectives are allowed.
        Result: an `Objective` on any device (the engine moves it), or None; the default is DINO.
        If it raises: the run does not start.
        """

    @hookspec
    @changes_training
    def frozen_modules(self, run: Run) -> list[Mapping[str, torch.nn.Module]]:
        """Hand over modules that are not trained; the engine places them and keeps them in every checkpoint.

        When: after the objective exists, before anything is moved to the device.
        Called: once; all answers are collected, names must differ.
        Processes: all, in the same order; collectives are allowed.
        Result: name -> module. A module on the meta device is not saved until the plugin gives it storage
            (`run.materialise(module)`); it comes back with its tensors on resume.
        If it raises: the run does not start.
        """

    @hookspec
    @changes_training
    def configure_model(self, run: Run, objective: Objective) -> None:
        """Change how the networks compute: attention kernels, compilation, activation checkpointing.

        When: after all modules exist, before they are moved to the device and the optimizer exists.
        Called: once.
        Processes: all, in the same order; collectives are allowed.
        Result: none; parameter names must stay as they are.
        If it raises: the run does not start.
        """

    @hookspec(firstresult=True)
    @changes_training
    def build_optimizer(self, run: Run, parameters: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        """Build the optimizer from parameter groups (`params`, `lr_factor`, `weight_decay_factor`, `last_layer`).

        When: after `configure_model`.
        Called: once, until one plugin answers.
        Processes: all, in the same order; collectives are allowed.
        Result: an optimizer that keeps the groups' extra keys, or None; the default is AdamW.
        If it raises: the run does not start.
        """

    @hookspec(firstresult=True)
    @changes_training
    def build_loader(self, run: Run, dataset: Dataset, position: int) -> Iterator[Samples]:
        """Deliver decoded micro-batches for ever, beginning after `position` images of this run's order.

        When: after a checkpoint was restored, so that the position is known.
        Called: once, until one plugin answers.
        Processes: all, in the same order; collectives are allowed.
        Result: an iterator of `Samples` (its `close()`, if any, is called at the end), or None.
        If it raises: the run does not start.
        """

    @hookspec
    def header_lines(self, run: Run) -> list[list[str]]:
        """Say in a few lines what people should know before the first step.

        When: everything is built and restored.
        Called: once; all answers are collected.
        Processes: the main one; no collectives.
        Result: lines of text.
        If it raises: critical plugin: the run does not start; observer: it is quarantined.
        """

    @hookspec
    def on_start(self, run: Run) -> None:
        """The run is complete and about to take the step `run.step + 1`.

        When: after `header_lines`.
        Called: once.
        Processes: all, in the same order; collectives are allowed.
        Result: none.
        If it raises: critical plugin: the run ends; observer: it is quarantined.
        """

    # -- every step -------------------------------------------------------------------------------------------

    @hookspec
    def before_step(self, run: Run, step: int) -> None:
        """A step begins; its schedules are applied and its micro-batches are fetched.

        When: before the teacher's targets.
        Called: once per step.
        Processes: all, in the same order; collectives are allowed.
        Result: none.
        If it raises: critical plugin: the run ends; observer: it is quarantined.
        """

    @hookspec
    @changes_training
    def loss_terms(
        self, run: Run, step: int, micro: int, batch: Batch, outputs: Outputs
    ) -> list[Mapping[str, torch.Tensor]]:
        """Add terms to the loss: what is minimised is the sum of all terms.

        When: after the student's forward pass, inside autocast, with gradients.
        Called: once per micro-batch (`micro` counts from 0); all answers are collected.
        Processes: all, in the same order; collectives are allowed.
        Result: name -> weighted scalar of this micro-batch, shape `()`, float32; an empty mapping adds nothing.
        If it raises: the run ends.
        """

    @hookspec
    def after_backward(self, run: Run, step: int, micro: int) -> None:
        """Gradients of one micro-batch were added. There are no outputs here, so nothing can keep the graph alive.

        When: after the backward pass of a micro-batch.
        Called: once per micro-batch.
        Processes: all, in the same order; collectives are allowed.
        Result: none.
        If it raises: critical plugin: the run ends; observer: it is quarantined.
        """

    @hookspec
    def before_update(self, run: Run, step: int, grad_norm: torch.Tensor) -> None:
        """All processes agree that loss and gradients are finite; the optimizer is next.

        When: after clipping and the step's agreement; the update waits for the answer to every anomaly that is
            reported (`run.report_anomaly`) until this hook has returned. `run.metrics.pending(names)` has the values
            of the step.
        Called: once per step whose numbers are finite; `grad_norm` is the norm before clipping, shape `()`.
        Processes: all, in the same order; collectives are allowed.
        Result: none.
        If it raises: critical plugin: the run ends; observer: it is quarantined.
        """

    @hookspec
    def after_update(self, run: Run, step: int) -> None:
        """Student and teacher have their new weights.

        When: after the optimizer and the teacher's moving average.
        Called: once per step that was not skipped.
        Processes: all, in the same order; collectives are allowed.
        Result: none.
        If it raises: critical plugin: the run ends; observer: it is quarantined.
        """

    @hookspec(firstresult=True)
    @changes_training
    def on_anomaly(self, run: Run, anomaly: Anomaly) -> Action:
        """Decide what is done about an anomaly that was reported: numbers that are not finite, by the engine, or
        whatever a plugin has found.

        When: after `before_update` for what was reported until then, which holds the update back; after `on_metrics`
            and before the save for what was reported since, when `SKIP` comes too late and is the same as `WARN`.
        Called: once per anomaly, with the same arguments on all processes, until one plugin answers. Of several
            processes the answer of the main one is done, of several anomalies at a time the strongest.
        Processes: all, in the same order; collectives are allowed.
        Result: from the weakest to the strongest `Action.WARN` (say so; a step that is not finite is left out all the
            same), `SKIP` (leave the update out; the step counts), `SAVE` (as `SKIP`, and keep an emergency checkpoint),
            `ROLL_BACK` (go on from the newest verified checkpoint before `anomaly.onset`, behind the images of today;
            where the run may not, as `HALT`) or `HALT` (keep an emergency checkpoint, end with exit code 5); or None.
            The default, `Defaults.on_anomaly`, skips, and halts when that would be the `run.halt_after_skips`-th skip
            in a row.
        If it raises: the run ends.
        """

    @hookspec
    def after_step(self, run: Run, step: int) -> None:
        """The step is over, updated or skipped; `run.step == step`.

        When: after gradients are cleared.
        Called: once per step.
        Processes: all, in the same order; collectives are allowed.
        Result: none.
        If it raises: critical plugin: the run ends; observer: it is quarantined.
        """

    @hookspec
    def on_metrics(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        """The averages since the last call were fetched from the device.

        When: every `run.log_every_steps` and at the last step.
        Called: once; the values are means over all processes.
        Processes: the main one; no collectives.
        Result: none.
        If it raises: critical plugin: the run ends; observer: it is quarantined.
        """

    @hookspec
    def on_checkpoint(self, run: Run, step: int, path: Path) -> None:
        """A checkpoint is complete and verified on disk.

        When: checkpoints are saved every `run.checkpoint_every_steps`, on request, and when the run stops or finishes.
            They are written while training goes on: this comes at the end of the first step that finds one published,
            at the end of the run after waiting for it. `step` is that of the checkpoint; `run.step` may be beyond it.
        Called: at most once per checkpoint, by the thread of the loop. One that the disk has refused is the event
            `checkpoint-failed` instead; of one that was published just before a kill nobody hears.
        Processes: the main one; no collectives.
        Result: none.
        If it raises: critical plugin: the run ends; observer: it is quarantined.
        """

    # -- beside a run -----------------------------------------------------------------------------------------

    @hookspec
    def measurements(self, run: Run) -> list[Mapping[str, float]]:
        """Measure the networks as they are, and draw what there is to see: of a checkpoint that is visited.

        When: `bigrun monitor` has opened a checkpoint: data, objective and frozen modules are there with its state,
            and `run.step` is its step. There is no optimizer, `on_start` is not called, and nothing is trained.
        Called: once; all answers are collected, names must differ.
        Processes: the main one; no collectives.
        Result: name -> number; files go to `run.path_for(plugin)`, in a directory of the visit.
        If it raises: critical plugin: the command ends; observer: it is quarantined.
        """

    # -- any time ---------------------------------------------------------------------------------------------

    @hookspec
    def on_event(self, run: Run, event: Event) -> None:
        """Something that is not a number happened: resumed, an anomaly, a save that failed, quarantined, asked to stop.

        When: at once; what happened on another process than the main one, when its step is over. What fails there when
            the run has ended is on that process's standard error.
        Called: once per event.
        Processes: the main one; no collectives.
        Result: none.
        If it raises: critical plugin: the run ends; observer: it is quarantined.
        """

    @hookspec
    def on_picture(self, run: Run, step: int, name: str, path: Path) -> None:
        """A plugin has drawn a picture, which may be shown elsewhere too.

        When: at once, by `run.picture(name, path)`.
        Called: once per picture. `name` is the same for each of a series, as `attention-maps/03-scan.png` without its
            step; `path` is a PNG file.
        Processes: the main one; no collectives.
        Result: none.
        If it raises: critical plugin: the run ends; observer: it is quarantined.
        """

    @hookspec
    def on_finish(self, run: Run) -> None:
        """The run reached its last step, or was asked to stop; its checkpoint is saved.

        When: after the last `on_checkpoint`; `run.finished` tells the two apart.
        Called: once.
        Processes: all, in the same order; collectives are allowed.
        Result: none.
        If it raises: critical plugin: the run ends with an error; observer: it is quarantined.
        """

    @hookspec
    def on_error(self, run: Run, error: BaseException) -> None:
        """The run ends with an error.

        When: instead of `on_finish`.
        Called: once; every plugin hears it, even if another one raises here.
        Processes: each that fails; no collectives.
        Result: none.
        If it raises: it is logged as an event.
        """

    @hookspec
    def teardown(self, run: Run) -> None:
        """Release what the plugin holds: files, threads, process-wide flags. May be called twice.

        When: last of all, whatever happened; for a quarantined observer, at its quarantine.
        Called: every plugin hears it, even if another one raises here.
        Processes: all, each on its own; no collectives: others may be gone.
        Result: none.
        If it raises: it is logged as an event.
        """
