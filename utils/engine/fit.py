"""The training loop of every method: epochs, steps, graphs, processes, progress, checkpoints.

A method describes a stage of a task (`Stage`): which network learns, from which loss, how long and
how fast. `Engine.fit` does the rest, from any step on: a checkpoint may be made after each one, and
training that is resumed there gives the same weights to the bit.

    stage = Stage("train", task, network, losses, schedule, images)
    engine.fit(stage)
"""

import logging
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR

from utils.blocks import BlockRecorder
from utils.cuda_graph import GraphedStep
from utils.devices import peak_memory, without_search
from utils.engine.run import Run
from utils.file_loader import FileBatch
from utils.inc_net import AdaptiveNet
from utils.loader import ResidentLoader
from utils.precision import training_precision
from utils.progress import StepClock
from utils.tables import duration

log = logging.getLogger("memo")

MOMENTUM = 0.9

Step = Callable[..., Tensor]
Losses = Callable[[dict[str, Tensor], Tensor, Tensor], dict[str, Tensor]]


class TrainingError(Exception):
    """Training cannot go on; the message is one sentence for the user."""


class Rehearsed(Exception):
    """A checkpoint was read, and fits its stage: raised where only that is tried."""


@dataclass(frozen=True)
class Schedule:
    """How a stage is trained: SGD with momentum, the learning rate stepped once an epoch.

    The rate is multiplied by `decay` after each of the epochs in `milestones`; or it follows a
    cosine that reaches 0 after `cosine` epochs.
    """

    epochs: int
    lr: float
    weight_decay: float
    milestones: Sequence[int] = ()
    decay: float = 0.1
    cosine: int | None = None

    def optimizer(self, parameters: Sequence[nn.Parameter]) -> torch.optim.SGD:
        """Return a fresh SGD over these parameters."""
        settings = {"lr": self.lr, "weight_decay": self.weight_decay, "momentum": MOMENTUM}
        return torch.optim.SGD(parameters, **settings, fused=True)

    def scheduler(self, optimizer: torch.optim.Optimizer) -> LRScheduler:
        """Return the schedule of the optimiser's learning rate."""
        if self.cosine is not None:
            return CosineAnnealingLR(optimizer, self.cosine)
        return MultiStepLR(optimizer, self.milestones, self.decay)


@dataclass(frozen=True)
class Stage:
    """One training of a network: all that a method says of it.

    Attributes:
        name: one of the method's row, such as "train".
        task: counted from 0.
        net: what computes; frozen parts have been frozen.
        losses: (outputs of the net, images, targets) -> the mean of every part of the loss.
        schedule: how long and how fast.
        images: (N,) indices of the training images.
        weights: all parts of the loss; it is the sum of weight x part.
        trains: what learns; None is all of the net that asks for a gradient.
        idle: a part of the net that no loss reaches in this stage, if there is one.
    """

    name: str
    task: int
    net: AdaptiveNet
    losses: Losses
    schedule: Schedule
    images: np.ndarray
    weights: Mapping[str, float] = field(default_factory=lambda: {"clf": 1.0})
    trains: Sequence[nn.Parameter] | None = None
    idle: nn.Module | None = None

    def total(self, parts: Mapping[str, Any]) -> Any:
        """Return the loss of its parts, tensors or numbers.

        Raises:
            ValueError: they are not those that have a weight.
        """
        if parts.keys() != self.weights.keys():
            has, weighted = ", ".join(parts), ", ".join(self.weights)
            raise ValueError(f"stage {self.name!r} has losses {has}, but weights for {weighted}")
        each = ((parts[name], weight) for name, weight in self.weights.items())
        weighted = [part if weight == 1 else weight * part for part, weight in each]
        return sum(weighted[1:], weighted[0])


@dataclass
class Training:
    """Where the training of a stage stands; a checkpoint can be made after any step."""

    stage: Stage
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler
    losses: Tensor  # (steps of an epoch, parts + 1): what `training_step` gave in this epoch
    epoch: int = 0  # epochs done
    step: int = 0  # steps done in the epoch after those
    order: Tensor | None = None  # in which that epoch shows the images, once it has begun
    seconds: float = 0.0  # spent on that epoch

    @property
    def trained(self) -> list[nn.Parameter]:
        """What the optimiser changes."""
        return self.optimizer.param_groups[0]["params"]

    def next_epoch(self) -> None:
        """Note that an epoch is over; the learning rate takes its step."""
        with warnings.catch_warnings():
            # Where training is resumed, PyTorch takes it that no step was made before.
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
            self.scheduler.step()
        self.epoch, self.step, self.order, self.seconds = self.epoch + 1, 0, None, 0.0

    def finite_losses(self) -> Tensor:
        """Return the losses of the epoch so far, (steps, parts + 1) on the CPU.

        Raises:
            TrainingError: one is infinite or NaN; the message says in which step that began.
        """
        losses, stage = self.losses[: self.step].cpu(), self.stage
        finite = losses.isfinite().all(dim=1)
        if finite.all():
            return losses
        raise TrainingError(
            f"the loss became infinite or NaN in task {stage.task + 1}, epoch {self.epoch + 1} "
            f"of {stage.schedule.epochs}, step {int(finite.int().argmin()) + 1} of "
            f"{len(self.losses)}, at learning rate {self.scheduler.get_last_lr()[0]:g}: try a "
            f"lower --{'lrate' if stage.task else 'init_lr'} in a new run, and see that the images "
            "are what they should be"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return it in tensors and plain values: the settings have the rest.

        Raises:
            TrainingError: a loss is not finite.
        """
        kept = [self.optimizer.state.get(parameter, {}) for parameter in self.trained]
        return {
            "stage": self.stage.name,
            "momenta": [each.get("momentum_buffer") for each in kept],
            "losses": self.finite_losses(),
            **{name: getattr(self, name) for name in ("epoch", "step", "order", "seconds")},
        }

    def load_state_dict(self, saved: dict[str, Any], main: bool) -> None:
        """Go on, at the start of the same stage, from what `state_dict` gave.

        Raises:
            ValueError: it cannot be of this stage.
        """
        epoch, step, order = (saved[name] for name in ("epoch", "step", "order"))
        epochs, images = self.stage.schedule.epochs, len(self.stage.images)
        if epoch > epochs or step > len(self.losses) or (step and epoch == epochs):
            raise ValueError(f"there is no epoch {epoch}, step {step}")
        if saved["losses"].shape != (step, self.losses.shape[1]) or (step and order is None):
            raise ValueError(f"the losses or the order of the images are not those of step {step}")
        # Of images in files, a second column says how each is shown.
        shown = order[:, 0] if order is not None and order.dim() == 2 else order
        if shown is not None and not shown.sort().values.equal(torch.arange(images)):
            raise ValueError(f"the order of the images is not one of {images}")
        idle = set(self.stage.idle.parameters()) if self.stage.idle else ()
        for parameter, momentum in zip(self.trained, saved["momenta"], strict=True):
            if momentum is not None and momentum.shape == parameter.shape:
                # Laid out in memory as the weights are, whatever they were saved from: the fused
                # SGD goes through both in one order.
                held = torch.empty_like(parameter, requires_grad=False).copy_(momentum)
                self.optimizer.state[parameter]["momentum_buffer"] = held
            elif momentum is not None or ((epoch or step) and parameter not in idle):
                raise ValueError("the optimiser's momentum is not that of the weights")
        while self.epoch < epoch:
            self.next_epoch()
        self.step, self.seconds = step, saved["seconds"]
        if main:  # which has the sums of all processes
            self.losses[:step] = saved["losses"].to(self.losses.device)
        if order is not None:
            self.order = order.to(self.losses.device)


class Engine:
    """Trains the networks of one learner, stage by stage.

    Args:
        run: what it works with.
        parts: names of the parts of the method's loss.
        test: returns top-1 on the test images of all seen classes, for `eval_every`.

    Attributes:
        epochs: the rows of training.csv so far, plain values.
        blocks: records what each block goes through, where that is asked for.
        training: of the stage in progress, or of the task's last one.
        resumed: a checkpoint's training, until its stage is reached.
        rehearsing: raise `Rehearsed` once a checkpoint has been read, in place of training.
    """

    def __init__(self, run: Run, parts: Sequence[str], test: Callable[[], float]) -> None:
        self.run, self.parts, self.test = run, tuple(parts), test
        self.epochs: list[dict[str, Any]] = []
        self.blocks = BlockRecorder() if run.config.record_blocks else None
        self.training: Training | None = None
        self.resumed: dict[str, Any] | None = None
        self.rehearsing = False
        self._graphs_fail = False  # a step could not be recorded: later stages do not try again

    def end_task(self) -> None:
        """Forget the training of the task."""
        self.training = self.resumed = None

    def collect(self) -> None:
        """Bring the losses of all processes together on rank 0."""
        if self.training:
            self.run.group.collect(self.training.losses)

    def state_dict(self) -> dict[str, Any] | None:
        """Return the training in progress for a checkpoint; None between tasks.

        Raises:
            TrainingError: a loss is not finite: nothing to go on from.
        """
        return self.training.state_dict() if self.training else self.resumed

    def fit(self, stage: Stage) -> bool:
        """Train, from the beginning or from where a checkpoint was made.

        Returns:
            False if a checkpoint says that this stage was over: nothing was done.

        Raises:
            TrainingError: the loss became infinite or NaN.
            Stopped: the run was asked to stop, and was saved.
        """
        if self.resumed and self.resumed["stage"] != stage.name:
            return False
        run, epochs, first = self.run, stage.schedule.epochs, self.training is None
        training = self.training = self.begin(stage)
        steps = len(training.losses)
        if self.resumed:
            training.load_state_dict(self.resumed, run.group.main)
            self.resumed = None
        elif self.blocks and first:
            self.blocks.begin_task(stage.task + 1, stage.net.path())
        if self.rehearsing:
            raise Rehearsed
        step, clock = self.make_step(training), StepClock(run.generator.device)
        placed = torch.from_numpy(stage.images).to(run.train_data.device)  # once for all epochs
        shown = stage.task, epochs, steps, training.epoch * steps + training.step
        with training_precision(run.precision), run.display.training(*shown):
            while training.epoch < epochs:
                losses, seconds = self.train_epoch(training, step, placed, clock)
                rate = training.scheduler.get_last_lr()[0]
                training.next_epoch()
                if self.blocks:
                    self.blocks.end_epoch()
                means = (losses.sum(dim=0) / len(stage.images)).tolist()
                run.group.on_main(self.report_epoch, training, rate, means, seconds)
                run.control.after_epoch(training.epoch)
        run.group.copy_main(stage.net)  # its statistics, too: it may become a teacher now
        self._graphs_fail = self._graphs_fail or (isinstance(step, GraphedStep) and step.failed)
        run.group.on_main(self.report_speed, stage, clock)
        return True

    def begin(self, stage: Stage) -> Training:
        """Return the start of a stage's training: fresh optimiser, fresh schedule.

        Raises:
            ValueError: a part of the loss is not one of the method's row.
        """
        unknown = [name for name in stage.weights if name not in self.parts]
        if unknown:
            raise ValueError(
                f"{unknown[0]} is not among the method's loss_parts, models/methods.py"
            )
        if len(self.run.devices) == 1:  # DataParallel copies registered modules only
            stage.net.fold_frozen()
        parameters = list(stage.net.parameters())
        asking = [parameter for parameter in parameters if parameter.requires_grad]
        trains = asking if stage.trains is None else stage.trains
        chosen = set(trains)
        for parameter in parameters:  # what does not learn needs no gradient
            parameter.requires_grad_(parameter in chosen)
        stage.net.zero_grad(set_to_none=True)
        optimizer = stage.schedule.optimizer(trains)
        steps = self.run.train_data.num_batches(len(stage.images), self.run.config.batch_size)
        losses = torch.zeros(steps, len(self.parts) + 1, device=self.run.devices[0])
        return Training(stage, optimizer, stage.schedule.scheduler(optimizer), losses)

    def train_epoch(
        self, training: Training, step: Step, indices: Tensor, clock: StepClock
    ) -> tuple[Tensor, float]:
        """Make the steps of an epoch, or those that are left of it.

        Args:
            training: where it stands; kept up to date, step by step.
            step: of `make_step`.
            indices: of the stage's images, on their device.
            clock: times the steps.

        Returns:
            the losses, (steps, parts + 1) on the CPU, and the seconds that all steps took.
        """
        run, size = self.run, self.run.config.batch_size
        begin = time.perf_counter() - training.seconds
        if training.order is None:
            training.order = run.train_data.draw_order(len(indices), run.generator)
        # On a GPU the losses stay there and are read once, at the end of the epoch.
        readable = run.devices[0].type == "cpu" and run.group.world == 1
        words = (lambda: self.words_so_far(training)) if readable else None
        clock.begin_epoch()
        for batch in run.train_data.train_batches(indices, size, training.order, training.step):
            training.losses[training.step] = step(batch)
            clock.after_step("recorded" if getattr(step, "replayed", False) else "ordinary")
            if self.blocks:
                self.blocks.after_step()
            training.step += 1
            training.seconds = time.perf_counter() - begin
            run.display.after_step(words)
            run.control.after_step()
        self.collect()
        losses = run.group.from_main(training.finite_losses)
        clock.end_epoch()  # the device has caught up
        return losses, time.perf_counter() - begin

    def make_step(self, training: Training) -> Step:
        """Return what is called with each batch of `train_batches`: a whole step of training.

        Of several processes, each makes its share of the batch.
        """
        run, net = self.run, training.stage.net
        network = run.group.parallel(run.parallel(net), without=training.stage.idle)

        def step(batch: Tensor | FileBatch) -> Tensor:
            _, weight = run.group.share_and_weight(len(batch))
            images, targets = run.train_data.make_batch(batch, run.generator)
            dtype = net.train_dtype
            if weight == 0 and run.config.sync_batchnorm:
                images, targets = images[:0], targets[:0]
                # Of an empty batch SyncBatchNorm hands on numbers of the type of its input; the
                # others' statistics are float32, whatever they compute in.
                net.train_dtype = None
            # cuDNN tries its algorithms for the shape that comes again and again only.
            full = len(batch) == run.config.batch_size
            with nullcontext() if full else without_search():
                sums = self.training_step(training, network, images, targets, weight)
            net.train_dtype = dtype
            return sums if weight else torch.zeros_like(sums)

        return GraphedStep(step, training.optimizer, run.generator) if self.uses_graphs() else step

    def uses_graphs(self) -> bool:
        """Return whether steps are CUDA graphs: on one GPU, with images that lie on it.

        Unless --no-cuda_graph, or --record_blocks, which looks at every gradient, was given.
        """
        run = self.run
        one_gpu = run.devices[0].type == "cuda" and len(run.devices) == run.group.world == 1
        resident = isinstance(run.train_data, ResidentLoader)
        asked_for = run.config.cuda_graph and not self.blocks
        return one_gpu and resident and asked_for and not self._graphs_fail

    def training_step(
        self,
        training: Training,
        network: nn.Module,
        images: Tensor,
        targets: Tensor,
        weight: float = 1.0,
    ) -> Tensor:
        """Make one SGD step on (B, 3, H, W) normalised images and (B,) targets.

        The loss is multiplied by `weight`, see `Group.share_and_weight`; what is returned is not.

        Returns (parts + 1,) on the device: B x each part of the loss, and the number of images
        classified correctly; nothing here waits for the device.
        """
        stage = training.stage
        outputs = network(images)
        parts = stage.losses(outputs, images, targets)
        loss = stage.total(parts)
        training.optimizer.zero_grad(set_to_none=True)
        (loss if weight == 1 else weight * loss).backward()
        training.optimizer.step()
        with torch.no_grad():
            correct = (outputs["logits"].argmax(dim=1) == targets).sum()
            none, n = torch.zeros_like(loss), len(targets)
            sums = [parts[name] * n if name in stage.weights else none for name in self.parts]
            return torch.stack([*sums, correct.to(loss.dtype)])

    # -- what a user sees meanwhile ----------------------------------------------------------------

    def words_so_far(self, training: Training) -> str:
        """Return loss and accuracy of the epoch in progress."""
        stage = training.stage
        shown = min(training.step * self.run.config.batch_size, len(stage.images))
        *means, accuracy = (training.losses[: training.step].sum(0) / shown).tolist()
        loss = stage.total({name: means[self.parts.index(name)] for name in stage.weights})
        return f"loss {loss:.3f}, train {100 * accuracy:.1f} %"

    def report_epoch(
        self, training: Training, rate: float, means: list[float], seconds: float
    ) -> None:
        """Log and keep an epoch; evaluate if `eval_every` says so."""
        stage, run = training.stage, self.run
        *parts, accuracy = means
        parts = {name: parts[self.parts.index(name)] for name in stage.weights}
        loss, top1, test = stage.total(parts), None, ""
        if run.config.eval_every and training.epoch % run.config.eval_every == 0:
            with run.display.doing("testing"):
                top1 = self.test()
            test = f", test {top1:.2f} %"
        run.display.after_epoch(seconds, f"loss {loss:.3f}, train {100 * accuracy:.1f} %{test}")
        listed = ", ".join(f"{name} {part:.4f}" for name, part in parts.items())
        where = f"task {stage.task + 1} epoch {training.epoch}/{stage.schedule.epochs}"
        found = f"loss {loss:.4f} ({listed}), train {100 * accuracy:.2f} %{test}"
        log.debug("%s: lr %g, %s", where, rate, found)
        # Epochs count on over the stages of a task.
        earlier = [row for row in self._rows_of(stage.task) if row["stage"] != stage.name]
        self.epochs.append(
            {
                "task": stage.task + 1,
                "stage": stage.name,
                "epoch": len(earlier) + training.epoch,
                "lr": rate,
                "loss": loss,
                **{f"loss_{name}": parts.get(name) for name in self.parts},
                "train_acc": 100 * accuracy,
                "test_acc": top1,
                "seconds": seconds,
            }
        )
        run.write_epochs(self.epochs)

    def report_speed(self, stage: Stage, clock: StepClock) -> None:
        """Say how fast the task was trained, so that a slow way shows in the first minutes."""
        rows = self._rows_of(stage.task)
        seconds = sum(row["seconds"] for row in rows if row["stage"] == stage.name)
        peak = f"peak memory {peak_memory(self.run.generator.device) / 1e9:.2f} GB"
        said = [clock.sentence(), duration(seconds), peak]
        log.info("task %d: %s", stage.task + 1, ", ".join(filter(None, said)))

    def _rows_of(self, task: int) -> list[dict[str, Any]]:
        return [row for row in self.epochs if row["task"] == task + 1]
