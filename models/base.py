"""What every class-incremental learner shares: the classes seen, the exemplars, the evaluation.

A learner goes through the tasks in order, and for each one the experiment calls

    begin_task()    the next task's classes are known; the network grows
    train_task()    learn them from the task's images and the exemplars of earlier classes
    end_task()      whatever follows training; at least: choose the exemplars
    evaluate()      predict every test image of the classes seen so far, in two ways

Tasks count from 0 in here; everything a user sees counts from 1. The learner owns the network and
the exemplar memory; images stay in the loaders, labels and splits in the data manager.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from utils.blocks import BlockRecorder
from utils.config import Config
from utils.control import Control
from utils.data_manager import DataManager
from utils.devices import without_search
from utils.distributed import Group
from utils.exemplars import ExemplarMemory, class_means, herd, nme_predict
from utils.inc_net import state_mismatch
from utils.loader import ResidentLoader
from utils.precision import full_float32, resolve_precision
from utils.progress import Display
from utils.seeds import DATA, MOVED_DATA, stream_seed

# Images in one forward pass without gradients; results depend on it by rounding only. More are no
# faster on a CPU, and their maps would come on top of what training leaves in memory. A GPU is busy
# with more of those that are small.
EVAL_BATCH = 250
EVAL_BATCH_GPU, SMALL = 1000, 64  # pixels a side


class TrainingError(Exception):
    """Training cannot go on; the message is one sentence for the user."""


@dataclass(frozen=True)
class Predictions:
    """Classes predicted for the N test images of all seen classes, best first, k = min(5, seen).

    cnn: (N, k) int64, by the classifier. nme: (N, k) int64, by the nearest mean of exemplars.
    targets: (N,) int64. A class is its position in the class order.
    """

    cnn: np.ndarray
    nme: np.ndarray
    targets: np.ndarray


class Learner(ABC):
    """A class-incremental learner; see the module's docstring for its life.

    Args:
        config: the settings of the run.
        tasks: class order and task splits.
        train_data: the training images.
        test_data: the test images, never seen by training or herding.
        devices: where to compute; several mean nn.DataParallel over them. The data live on the
            first one.
        group: the processes that train together. All call the same methods in the same order, but
            end_task() and evaluate() are for rank 0 alone, and follow() for all after them.
    """

    # What a subclass trains: images -> {"logits", "features", ...}. Its for_inference() gives the
    # network that tests.
    network: nn.Module

    def __init__(
        self,
        config: Config,
        tasks: DataManager,
        train_data: ResidentLoader,
        test_data: ResidentLoader,
        devices: list[torch.device],
        group: Group | None = None,
    ):
        self.config = config
        self.tasks = tasks
        self.train_data = train_data
        self.test_data = test_data
        self.devices = devices
        self.group = group or Group()
        # The data path draws from a generator of its own, so that what the network draws (initial
        # weights) and what the data draw (order, crops, flips) cannot disturb each other.
        self.generator = torch.Generator(devices[0]).manual_seed(
            stream_seed(config.torch_seed, DATA)
        )
        self.precision = resolve_precision(config.precision, devices[0])  # of training
        self.memory = ExemplarMemory(
            config.memory_size, config.fixed_memory, config.memory_per_class
        )
        # Of the exemplars, (seen, feature_dim), and the task after which they were computed.
        self._class_means: tuple[int, torch.Tensor] | None = None
        self.task = -1
        # Asked after every training step and epoch; the experiment puts its own here.
        self.control = Control()
        self.display = Display()  # what the terminal shows meanwhile, likewise
        # What the logbook shows of training, all plain values: a line per epoch (the columns of
        # training.csv), and per task the lengths of the classifier's rows before and after
        # alignment. A run that is taken up again goes on with the lists of its checkpoint.
        self.epochs: list[dict[str, Any]] = []
        self.weight_norms: list[dict[str, list[float]]] = []
        self.blocks = BlockRecorder() if config.record_blocks else None
        self.after_epoch: Callable[[], None] = lambda: None  # called when `epochs` has one more
        self.files: str | None = None  # which image files these are, where the data are files

    @property
    def known_classes(self) -> int:
        """Number of classes of the earlier tasks."""
        return self.tasks.known_classes(self.task)

    @property
    def seen_classes(self) -> int:
        """Number of classes up to and including this task."""
        return self.tasks.seen_classes(self.task)

    @abstractmethod
    def begin_task(self) -> None:
        """Move on to the next task."""

    @abstractmethod
    def train_task(self) -> None:
        """Learn the task's classes."""

    @abstractmethod
    def end_task(self) -> None:
        """Do what follows training, build_memory() at least."""

    def follow(self, exemplars: list[torch.Tensor]) -> None:
        """Let every process have what rank 0 has after end_task(): the network and the exemplars.

        Args:
            exemplars: `memory.state_dict()` of rank 0.
        """
        self.group.copy_main(self.network)
        self.memory.load_state_dict(exemplars)

    def collect(self) -> None:  # noqa: B027 - a learner may hold nothing that must be collected
        """Let rank 0 have what it needs for state_dict(); all processes call it before that."""

    def records(self) -> dict[str, Any]:
        """Return what was kept of training so far, plain values and tensors, for a checkpoint."""
        return {
            "epochs": self.epochs,
            "weight_norms": self.weight_norms,
            "blocks": self.blocks.state_dict() if self.blocks else None,
        }

    def load_records(self, records: dict[str, Any]) -> None:
        """Go on from `records()`, in the task they were made in (begin_task() has been called)."""
        self.epochs = list(records["epochs"])
        self.weight_norms = list(records["weight_norms"])
        if self.blocks and records["blocks"]:
            self.blocks.load_state_dict(records["blocks"], self.network.path())

    # -- between runs of the program ---------------------------------------------------------------

    def draws(self) -> dict[str, Any]:
        """Return where the random numbers of the data path stand, and of which seed they are."""
        return {
            "torch_seed": self.config.torch_seed,
            "device": self.generator.device.type,
            "state": self.generator.get_state(),
        }

    def go_on_drawing(self, draws: dict[str, Any] | None) -> None:
        """Go on where another learner's `draws` were, if they are of this seed and device type."""
        ours = self.draws()
        if draws and all(draws[key] == ours[key] for key in ("torch_seed", "device")):
            self.generator.set_state(draws["state"])

    def state_dict(self) -> dict[str, Any]:
        """Return all that a new learner needs to go on from here, in tensors and plain values.

        Raises:
            TrainingError: the network holds numbers that are not finite: nothing to go on from.
        """
        network = self.network.state_dict()
        finite = [v.isfinite().all() for v in network.values() if v.is_floating_point()]
        if not torch.stack(finite).all():
            raise TrainingError(
                f"the network's weights are not finite in task {self.task + 1}: try a lower "
                f"--{'init_lr' if self.task == 0 else 'lrate'}"
            )
        return {
            "task": self.task,
            "network": network,
            "exemplars": self.memory.state_dict(),
            "generator": self.generator.get_state(),
            "generator_device": self.generator.device.type,
            "records": self.records(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back, in a new learner, what `state_dict` gave.

        On another type of device the data path's random numbers are others from here on.

        Raises:
            ValueError, or another of `utils.checkpoint_form.UNFIT`: it is no state of this run.
        """
        for _ in range(state["task"] + 1):
            self.begin_task()
        problem = state_mismatch(self.network.state_dict(), state["network"])
        if problem:
            raise ValueError(f"the network does not fit: {problem}")
        self.network.load_state_dict(state["network"])
        self.load_exemplars(state["exemplars"])
        self._class_means = None
        if state["generator_device"] == self.generator.device.type:
            self.generator.set_state(state["generator"])
        else:
            self.generator.manual_seed(stream_seed(self.config.torch_seed, MOVED_DATA, self.task))
        self.load_records(state["records"])

    def load_exemplars(self, exemplars: list[torch.Tensor]) -> None:
        """Take back `memory.state_dict()`.

        Raises:
            ValueError: they are not training images of their classes, or too many.
        """
        labels = torch.from_numpy(self.tasks.train_labels)
        for label, indices in enumerate(exemplars):
            if not ((indices >= 0) & (indices < len(labels))).all():
                raise ValueError(f"there is no training image of an exemplar of class {label}")
            if not (labels[indices] == label).all():
                raise ValueError(f"an exemplar of class {label} is an image of another class")
        self.memory.load_state_dict(exemplars)

    # -- with gradients ----------------------------------------------------------------------------

    def parallel(self, network: nn.Module) -> nn.Module:
        """Return a network spread over the devices when there are several."""
        if len(self.devices) > 1:
            return nn.DataParallel(network, device_ids=[d.index for d in self.devices])
        return network

    def training_indices(self) -> np.ndarray:
        """Return all images of this task's classes plus the exemplars of earlier ones, (N,)."""
        new = self.tasks.train_indices(self.known_classes, self.seen_classes)
        return np.concatenate([new, self.memory.indices()])

    # -- without gradients -------------------------------------------------------------------------

    @torch.no_grad()
    def forward_all(
        self, data: ResidentLoader, indices: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (N, feature_dim) and logits (N, seen) of N >= 1 images in evaluation mode.

        In full float32, without cuDNN's search for the fastest algorithm: batches here have many
        sizes. Every BatchNorm uses its running statistics and images are not augmented. The network
        that trains is left as it is: this is computed with a folded copy of it.
        """
        network = self.parallel(self.network.for_inference())
        features = logits = None
        done = 0
        many = self.devices[0].type == "cuda" and self.config.image_side <= SMALL
        with full_float32(), without_search():
            for images, _ in data.eval_batches(indices, EVAL_BATCH_GPU if many else EVAL_BATCH):
                output = network(images)
                if features is None:
                    # One piece of memory for all: to join the batches in the end takes it twice.
                    features, logits = (
                        output[key].new_empty(len(indices), output[key].shape[1])
                        for key in ("features", "logits")
                    )
                part = slice(done, done + len(images))
                features[part], logits[part] = output["features"], output["logits"]
                done = part.stop
        return features, logits

    def build_memory(self) -> None:
        """Make room by keeping each old class's first exemplars, then herd the new classes.

        Old classes are cut to the exemplars that herding chose first, never ranked again. Every
        image needed passes the network once: what herding looks at gives the class means too.

        Raises:
            TrainingError: the network diverged, so that its features are not finite.
        """
        quota = self.memory.quota(self.seen_classes)
        self.memory.reduce(quota)
        indices = self.tasks.train_indices(self.known_classes, self.seen_classes)
        labels = self.tasks.train_labels[indices]
        old = self.memory.indices()
        features, _ = self.forward_all(self.train_data, np.concatenate([indices, old]))
        features, old_features = features[: len(indices)], features[len(indices) :]
        if not features.isfinite().all():
            raise TrainingError(
                f"training diverged in task {self.task + 1}: the network's features are infinite "
                "or no numbers; try a lower learning rate (--init_lr for task 1, else --lrate)"
            )
        rows = []
        for new_class in range(self.known_classes, self.seen_classes):
            of_class = np.flatnonzero(labels == new_class)
            chosen = of_class[herd(features[torch.from_numpy(of_class)], quota).cpu().numpy()]
            self.memory.add(new_class, indices[chosen])
            rows.append(chosen)
        rows = np.concatenate(rows)
        features = torch.cat([old_features, features[torch.from_numpy(rows)]])
        means = self._means_of(features, np.concatenate([old, indices[rows]]))
        self._class_means = self.task, means

    def _means_of(self, features: torch.Tensor, images: np.ndarray) -> torch.Tensor:
        """Return the class means (seen, feature_dim) of exemplars with these features."""
        labels = torch.from_numpy(self.tasks.train_labels[images]).to(features.device)
        return class_means(features, labels, self.seen_classes)

    def evaluate(self) -> Predictions:
        """Predict the test images of all seen classes with one pass over them."""
        if self._class_means is None or self._class_means[0] != self.task:
            exemplars = self.memory.indices()
            features, _ = self.forward_all(self.train_data, exemplars)
            self._class_means = self.task, self._means_of(features, exemplars)
        _, means = self._class_means
        indices = self.tasks.test_indices(0, self.seen_classes)
        features, logits = self.forward_all(self.test_data, indices)
        k = min(5, self.seen_classes)
        return Predictions(
            cnn=logits.topk(k, dim=1).indices.cpu().numpy(),
            nme=nme_predict(features, means, k).cpu().numpy(),
            targets=self.tasks.test_labels[indices],
        )
