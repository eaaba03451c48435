"""MEMO (Zhou, Wang, Ye, Zhan, ICLR 2023): a shared trunk, one specialized block per task.

The whole incremental loop, top to bottom. For every task:

    begin_task    the network grows: a specialized block (a copy of the newest), a wider classifier,
                  a fresh auxiliary classifier that tells the task's classes from "any old class"
    train_task    SGD on the task's images plus the exemplars: cross-entropy over all seen classes
                  plus alpha_aux x the auxiliary cross-entropy; no distillation
    end_task      weight alignment (new rows of the classifier scaled to the old rows' mean norm),
                  then the exemplar memory is cut and refilled by herding

Who learns in task 1: everything. Later: the newest block and both classifiers always; the trunk
(generalized blocks) only with `train_base`; older specialized blocks only with `train_adaptive`.
Whatever does not learn keeps its BatchNorm statistics too. When the trunk learns, the loss reaches
it through the frozen blocks as well as through the newest one.
"""

import logging
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR

from models.base import Learner, TrainingError
from utils.checkpoint import load_first_task
from utils.cuda_graph import GraphedStep, SideStreams
from utils.devices import peak_memory, without_search
from utils.file_loader import FileBatch
from utils.inc_net import AdaptiveNet
from utils.loader import ResidentLoader
from utils.logbook import duration
from utils.metrics import top_k_accuracy
from utils.precision import autocast_dtype, training_precision
from utils.progress import StepClock

log = logging.getLogger("memo")

MOMENTUM = 0.9


@dataclass
class Training:
    """Where the training of a task stands; a checkpoint can be made after any step."""

    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler
    losses: torch.Tensor  # (steps of an epoch, 3): what `training_step` gave in this epoch
    epoch: int = 0  # epochs done
    step: int = 0  # steps done in the epoch after those
    order: torch.Tensor | None = None  # in which that epoch shows the images, once it has begun
    seconds: float = 0.0  # spent on that epoch

    def next_epoch(self) -> None:
        """Note that an epoch is over."""
        self.epoch, self.step, self.order, self.seconds = self.epoch + 1, 0, None, 0.0


class Memo(Learner):
    """The learner; see the module's docstring."""

    def __init__(self, config, tasks, train_data, test_data, devices, group=None):
        super().__init__(config, tasks, train_data, test_data, devices, group)
        network = AdaptiveNet(config.convnet_type)
        if config.sync_batchnorm and self.group.world > 1:  # copied into every later block, too
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        self.network = network.to(devices[0])
        self.network.train_dtype = autocast_dtype(self.precision)
        self.training: Training | None = None  # while a task is being trained
        self.graphs_fail = False  # a step could not be recorded: later tasks do not try again
        if config.block_streams and self.uses_graphs():
            self.network.side_by_side = SideStreams(devices[0], config.block_streams)
        train_data.share = lambda n: self.share_and_weight(n)[0]

    def begin_task(self) -> None:
        """Grow the network for the next task's classes."""
        self.task += 1
        self.network.grow(self.seen_classes - self.known_classes)

    def train_task(self) -> None:
        """Train on the task, or, for the first one under --skip, load what was trained before.

        Goes on where `load_state_dict` left it. After a first task that was loaded the data are
        drawn as they would have been after training it, if the file tells where that was.

        Raises:
            TrainingError: the loss became infinite or NaN.
            Stopped: the run was asked to stop, and was saved.
        """
        config, first = self.config, self.task == 0
        if first and config.skip:
            self.read_first_task()
            return
        indices = self.training_indices()
        epochs = config.init_epoch if first else config.epochs
        steps = self.train_data.num_batches(len(indices), config.batch_size)
        training = self.training = self.training or self.begin_training()
        step, clock = self.make_step(training.optimizer), StepClock(self.generator.device)
        placed = torch.from_numpy(indices).to(self.train_data.device)  # once, not in every epoch
        done = training.epoch * steps + training.step
        with (
            training_precision(self.precision),
            self.display.training(self.task, epochs, steps, done),
        ):
            while training.epoch < epochs:
                losses, seconds = self.train_epoch(training, step, placed, clock)
                rate = training.scheduler.get_last_lr()[0]
                with warnings.catch_warnings():
                    # Resumed just here, PyTorch takes it that no step was made before.
                    warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
                    training.scheduler.step()
                training.next_epoch()
                if self.blocks:
                    self.blocks.end_epoch()
                means = (losses.sum(dim=0) / len(indices)).tolist()
                self.group.on_main(self.report_epoch, training.epoch, epochs, rate, means, seconds)
                self.control.after_epoch(training.epoch)
        self.graphs_fail = self.graphs_fail or (isinstance(step, GraphedStep) and step.failed)
        self.group.on_main(self.report_speed, clock)

    def read_first_task(self) -> None:
        """Read a trained first task from --init_checkpoint."""
        config = self.config
        loaded = self.group.from_main(
            load_first_task,
            config.init_checkpoint,
            self.network,
            config.init_cls,
            self.tasks.class_order,
            config.dataset,
            self.files,
        )
        self.go_on_drawing(loaded.draws)
        accuracy = loaded.accuracy
        said = "" if accuracy is None else f" (test accuracy stored with it: {accuracy:.2f} %)"
        log.info("task 1: not trained but read from %s%s", config.init_checkpoint, said)

    def train_epoch(
        self,
        training: Training,
        step: Callable[..., torch.Tensor],
        indices: torch.Tensor,
        clock: StepClock,
    ) -> tuple[torch.Tensor, float]:
        """Make the steps of an epoch, or those that are left of it.

        Args:
            training: where it stands; kept up to date, step by step.
            step: of `make_step`.
            indices: `training_indices`, on the device of the images.
            clock: times the steps.

        Returns:
            the losses, (steps, 3) on the CPU, and the seconds that all steps of the epoch took.

        Raises:
            TrainingError: the loss became infinite or NaN.
            Stopped: the run was asked to stop, and was saved.
        """
        size, begin = self.config.batch_size, time.perf_counter() - training.seconds
        if training.order is None:
            training.order = self.train_data.draw_order(len(indices), self.generator)
        # On a GPU the losses stay there and are read once, at the end of the epoch.
        readable = self.devices[0].type == "cpu" and self.group.world == 1
        words = (lambda: self.words_so_far(training, len(indices))) if readable else None
        clock.begin_epoch()
        for batch in self.train_data.train_batches(indices, size, training.order, training.step):
            training.losses[training.step] = step(batch)
            clock.after_step("recorded" if getattr(step, "replayed", False) else "ordinary")
            if self.blocks:
                self.blocks.after_step()
            training.step += 1
            training.seconds = time.perf_counter() - begin
            self.display.after_step(words)
            self.control.after_step()
        self.collect()
        losses = self.group.from_main(self.finite_losses, training)
        clock.end_epoch()  # the device has caught up
        return losses, time.perf_counter() - begin

    def end_task(self) -> None:
        """Align the classifier (from the second task on), then choose the exemplars."""
        norms = {"before": self.network.row_norms()}
        if self.task > 0:
            gamma = self.network.align_weights(self.seen_classes - self.known_classes)
            log.debug("task %d: weight alignment, gamma = %.4f", self.task + 1, gamma)
        self.weight_norms.append({**norms, "after": self.network.row_norms()})
        self.build_memory()
        self.training = None

    def follow(self, exemplars: list[torch.Tensor]) -> None:
        """Let every process have what rank 0 has after end_task()."""
        super().follow(exemplars)
        self.training = None

    # -- between runs of the program ---------------------------------------------------------------

    def collect(self) -> None:
        """Bring the losses of all processes together on rank 0."""
        if self.training:
            self.group.collect(self.training.losses)

    def state_dict(self) -> dict[str, Any]:
        """Return all that a new learner needs to go on from here, in tensors and plain values.

        Raises:
            TrainingError: the loss or the network is not finite: nothing to go on from.
        """
        training = self.training
        if training is None:
            return {**super().state_dict(), "training": None}
        losses = self.finite_losses(training)
        scheduler = training.scheduler.state_dict()
        scheduler.pop("milestones", None)  # a Counter; the settings have them
        return {
            **super().state_dict(),
            "training": {
                "optimizer": training.optimizer.state_dict(),
                "scheduler": scheduler,
                "losses": losses,
                "epoch": training.epoch,
                "step": training.step,
                "order": training.order,
                "seconds": training.seconds,
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back, in a new learner, what `state_dict` gave; for errors see there."""
        super().load_state_dict(state)
        saved = state["training"]
        if saved is None:
            return
        training = self.training = self.begin_training()
        self.require_training(saved, training)
        self.load_records(state["records"])  # which the beginning of training has begun anew
        (group,) = training.optimizer.state_dict()["param_groups"]
        group["lr"] = saved["optimizer"]["param_groups"][0]["lr"]
        kept = {"param_groups": [group], "state": saved["optimizer"]["state"]}
        training.optimizer.load_state_dict(kept)
        for parameter, held in training.optimizer.state.items():
            # Laid out in memory as the weights are, whatever they were saved from: the fused SGD
            # goes through both in one order.
            momentum = held["momentum_buffer"]
            if momentum.shape != parameter.shape or not momentum.isfinite().all():
                raise ValueError("the optimiser's momentum is not that of the weights")
            held["momentum_buffer"] = torch.empty_like(parameter).copy_(momentum)
        training.scheduler.load_state_dict(
            {key: saved["scheduler"][key] for key in ("last_epoch", "_step_count", "_last_lr")}
        )
        if self.group.main:  # which has the sums of all processes
            training.losses[: saved["step"]] = saved["losses"].to(training.losses.device)
        training.epoch, training.step = saved["epoch"], saved["step"]
        training.seconds = saved["seconds"]
        if saved["order"] is not None:
            training.order = saved["order"].to(self.devices[0])

    def require_training(self, saved: dict[str, Any], fresh: Training) -> None:
        """Raise ValueError, or the like, if a checkpoint cannot be of this task's training.

        Args:
            saved: what `state_dict` said of it.
            fresh: the start of it.
        """
        first, epoch, step, order = self.task == 0, saved["epoch"], saved["step"], saved["order"]
        epochs = self.config.init_epoch if first else self.config.epochs
        steps, images = len(fresh.losses), len(self.training_indices())
        if epoch > epochs or step > steps or (step and epoch == epochs):
            raise ValueError(f"there is no epoch {epoch}, step {step}")
        if len(saved["losses"]) != step or (step and order is None):
            raise ValueError(f"the losses or the order of the images are not those of step {step}")
        # Of images in files, a second column says how each is shown.
        shown = order[:, 0] if order is not None and order.dim() == 2 else order
        if shown is not None and not shown.sort().values.equal(torch.arange(images)):
            raise ValueError(f"the order of the images is not one of {images}")
        (usual,) = fresh.optimizer.state_dict()["param_groups"]
        # Only the first task has weights, those of the auxiliary classifier, without a momentum.
        untrained = len(list(self.network.aux_classifier.parameters())) if first else 0
        trained = len(usual["params"]) - untrained
        if len(saved["optimizer"]["state"]) < trained and (epoch or step):
            raise ValueError("the optimiser has no momentum for some weights")
        (group,) = saved["optimizer"]["param_groups"]
        rate = group["lr"]
        if not (type(rate) is float and 0 <= rate <= usual["initial_lr"] * 1.001):
            raise ValueError(f"the learning rate is {rate}")
        moved = {"last_epoch": epoch, "_step_count": epoch + 1, "_last_lr": [rate]}
        due = {**usual, **fresh.scheduler.state_dict(), **moved}
        given = {**due, **group, **saved["scheduler"]}  # an older PyTorch may have written less
        for key, value in due.items():
            if key not in ("lr", "milestones") and given[key] != value:
                raise ValueError(f"{key} of the optimiser or its schedule is not {value}")

    # -- the parts of training ---------------------------------------------------------------------

    def begin_training(self) -> Training:
        """Return the start of a task's training: fresh optimiser, fresh schedule."""
        self.set_modes()
        if self.blocks:
            self.blocks.begin_task(self.task + 1, self.network.path())
        optimizer = self.make_optimizer()
        steps = self.train_data.num_batches(len(self.training_indices()), self.config.batch_size)
        losses = torch.zeros(steps, 3, device=self.devices[0])
        return Training(optimizer, self.make_scheduler(optimizer), losses)

    def finite_losses(self, training: Training) -> torch.Tensor:
        """Return the losses of the epoch so far, (steps, 3) on the CPU.

        Raises:
            TrainingError: one is infinite or NaN; the message says in which step that began.
        """
        losses = training.losses[: training.step].cpu()
        finite = losses.isfinite().all(dim=1)
        if finite.all():
            return losses
        config, first = self.config, self.task == 0
        raise TrainingError(
            f"the loss became infinite or NaN in task {self.task + 1}, epoch {training.epoch + 1} "
            f"of {config.init_epoch if first else config.epochs}, step "
            f"{int(finite.int().argmin()) + 1} of {len(training.losses)}, at learning rate "
            f"{training.scheduler.get_last_lr()[0]:g}: try a lower "
            f"--{'init_lr' if first else 'lrate'} in a new run, and see that the images are what "
            "they should be"
        )

    def set_modes(self) -> None:
        """Put every block in the state that this task trains it in."""
        first = self.task == 0
        self.network.freeze(
            generalized=not (first or self.config.train_base),
            old_specialized=not (first or self.config.train_adaptive),
        )
        if len(self.devices) == 1:  # DataParallel copies registered modules only
            self.network.fold_frozen()

    def make_optimizer(self) -> torch.optim.SGD:
        """Make a fresh SGD over what learns: frozen weights get no decay either."""
        config, first = self.config, self.task == 0
        return torch.optim.SGD(
            [parameter for parameter in self.network.parameters() if parameter.requires_grad],
            lr=config.init_lr if first else config.lrate,
            weight_decay=config.init_weight_decay if first else config.weight_decay,
            momentum=MOMENTUM,
            fused=True,
        )

    def make_scheduler(self, optimizer: torch.optim.Optimizer) -> LRScheduler:
        """Return the schedule of the learning rate, stepped once an epoch."""
        config, first = self.config, self.task == 0
        if config.scheduler == "cosine":
            return CosineAnnealingLR(optimizer, config.init_epoch if first else config.t_max)
        if first:
            return MultiStepLR(optimizer, config.init_milestones, config.init_lr_decay)
        return MultiStepLR(optimizer, config.milestones, config.lrate_decay)

    def losses(
        self, outputs: dict[str, torch.Tensor], targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Cross-entropy over all seen classes, and the auxiliary one (None in the first task).

        The auxiliary target is 0 for any old class and 1, 2, ... for the task's own classes.
        """
        loss = F.cross_entropy(outputs["logits"], targets)
        if self.task == 0:
            return loss, None
        aux_targets = (targets - self.known_classes + 1).clamp(min=0)
        return loss, F.cross_entropy(outputs["aux_logits"], aux_targets)

    def make_step(self, optimizer: torch.optim.Optimizer) -> Callable[..., torch.Tensor]:
        """Return what is called with each batch of `train_batches`: a whole step of training.

        Of several processes, each makes its share of the batch.
        """
        network = self.group.parallel(
            self.parallel(self.network),
            without=self.network.aux_classifier if self.task == 0 else None,
        )

        def step(batch: torch.Tensor | FileBatch) -> torch.Tensor:
            _, weight = self.share_and_weight(len(batch))
            images, targets = self.train_data.make_batch(batch, self.generator)
            dtype = self.network.train_dtype
            if weight == 0 and self.config.sync_batchnorm:
                images, targets = images[:0], targets[:0]
                # Of an empty batch SyncBatchNorm hands on numbers of the type of its input; the
                # others' statistics are float32, whatever they compute in.
                self.network.train_dtype = None
            sums = self.training_step(network, optimizer, images, targets, weight)
            self.network.train_dtype = dtype
            return sums if weight else torch.zeros_like(sums)

        def searching_step(batch: torch.Tensor | FileBatch) -> torch.Tensor:
            # cuDNN tries its algorithms for the shape that comes again and again only.
            full = len(batch) == self.config.batch_size
            with nullcontext() if full else without_search():
                return step(batch)

        if self.uses_graphs():
            return GraphedStep(searching_step, optimizer, self.generator)
        return searching_step

    def uses_graphs(self) -> bool:
        """Return whether steps are CUDA graphs: on one GPU, with images that lie on it.

        Unless --no-cuda_graph, or --record_blocks, which looks at every gradient, was given.
        """
        one_gpu = self.devices[0].type == "cuda" and len(self.devices) == self.group.world == 1
        resident = isinstance(self.train_data, ResidentLoader)
        asked_for = self.config.cuda_graph and not self.blocks
        return one_gpu and resident and asked_for and not self.graphs_fail

    def share_and_weight(self, n: int) -> tuple[slice, float]:
        """Return this process's part of a batch of `n` images, and the weight of its mean loss.

        The mean over all processes of weight x mean loss is the mean loss of the batch.

        A process that is left without an image (n < processes) must still take part in the sum of
        the gradients. It computes with the batch's first image and weight 0. That reaches nothing
        but its own BatchNorm statistics, and only rank 0's, which always has images, are used. With
        SyncBatchNorm that image would count in everyone's, but there a batch may be empty, so that
        the step leaves it out (no loader needs to make a batch of nothing).
        """
        share = self.group.share(n)
        size = share.stop - share.start
        return (share if size else slice(0, 1)), size * self.group.world / n

    def training_step(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        images: torch.Tensor,
        targets: torch.Tensor,
        weight: float = 1.0,
    ) -> torch.Tensor:
        """Make one SGD step on (B, 3, H, W) normalised images and (B,) targets.

        The loss is multiplied by `weight`, see `share_and_weight`; what is returned is not.

        Returns (3,) on the device: B x classification loss, B x auxiliary loss, and the number of
        images classified correctly; nothing here waits for the device.
        """
        outputs = network(images)
        loss_clf, loss_aux = self.losses(outputs, targets)
        loss = loss_clf if loss_aux is None else loss_clf + self.config.alpha_aux * loss_aux
        optimizer.zero_grad(set_to_none=True)
        (loss if weight == 1 else weight * loss).backward()
        optimizer.step()
        with torch.no_grad():
            correct = (outputs["logits"].argmax(dim=1) == targets).sum()
            loss_aux = torch.zeros_like(loss_clf) if loss_aux is None else loss_aux
            n = len(targets)
            return torch.stack([loss_clf * n, loss_aux * n, correct.to(loss_clf.dtype)])

    # -- what a user sees meanwhile ----------------------------------------------------------------

    def words_so_far(self, training: Training, images: int) -> str:
        """Return loss and accuracy of the epoch in progress, which shows so many images."""
        shown = min(training.step * self.config.batch_size, images)
        loss_clf, loss_aux, accuracy = (training.losses[: training.step].sum(0) / shown).tolist()
        loss = loss_clf + self.config.alpha_aux * loss_aux
        return f"loss {loss:.3f}, train {100 * accuracy:.1f} %"

    def report_epoch(
        self, epoch: int, epochs: int, rate: float, means: list[float], seconds: float
    ) -> None:
        """Log and keep an epoch; evaluate if `eval_every` says so."""
        loss_clf, loss_aux, accuracy = means
        loss = loss_clf + self.config.alpha_aux * loss_aux
        top1, test = None, ""
        every = self.config.eval_every
        if every and epoch % every == 0:
            indices = self.tasks.test_indices(0, self.seen_classes)
            with self.display.doing("testing"):
                _, logits = self.forward_all(self.test_data, indices)
            predicted = logits.argmax(dim=1, keepdim=True).cpu().numpy()
            top1 = top_k_accuracy(predicted, self.tasks.test_labels[indices])
            test = f", test {top1:.2f} %"
        self.display.after_epoch(seconds, f"loss {loss:.3f}, train {100 * accuracy:.1f} %{test}")
        log.debug(
            "task %d epoch %d/%d: lr %g, loss %.4f (classifier %.4f, auxiliary %.4f), "
            "train %.2f %%%s",
            self.task + 1,
            epoch,
            epochs,
            rate,
            loss,
            loss_clf,
            loss_aux,
            100 * accuracy,
            test,
        )
        self.epochs.append(
            {
                "task": self.task + 1,
                "epoch": epoch,
                "lr": rate,
                "loss": loss,
                "loss_clf": loss_clf,
                "loss_aux": loss_aux if self.task > 0 else None,
                "train_acc": 100 * accuracy,
                "test_acc": top1,
                "seconds": seconds,
            }
        )
        self.after_epoch()

    def report_speed(self, clock: StepClock) -> None:
        """Say how fast the task was trained, so that a slow way shows in the first minutes."""
        seconds = sum(row["seconds"] for row in self.epochs if row["task"] == self.task + 1)
        peak = f"peak memory {peak_memory(self.generator.device) / 1e9:.2f} GB"
        said = [clock.sentence(), duration(seconds), peak]
        log.info("task %d: %s", self.task + 1, ", ".join(filter(None, said)))
