"""What every class-incremental learner has: networks, exemplars, predictions, a training loop.

The life of a learner, one round per task:

    learner.begin_task()              the network grows
    learner.learn_task()              train_task() of the method: one call of fit() a stage
    learner.end_task()                what follows training; the exemplars are chosen
    predictions = learner.evaluate()

A method is a subclass in a file of its own (models/memo.py is the one to read) that says what is
trained, from which loss and how; how that is computed is in utils/engine/fit.py. Images are named
by their index in the data set, so that an exemplar memory is a list of numbers.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.methods import find_method
from utils.checkpoint import load_first_task
from utils.cuda_graph import SideStreams
from utils.devices import without_search
from utils.engine.fit import Engine, Losses, Rehearsed, Schedule, Stage, TrainingError
from utils.engine.run import Run
from utils.exemplars import ExemplarMemory, class_means, herd, nme_predict
from utils.inc_net import AdaptiveNet, state_mismatch
from utils.loader import ResidentLoader
from utils.metrics import top_k_accuracy
from utils.precision import full_float32
from utils.seeds import MOVED_DATA, stream_seed

log = logging.getLogger("memo")

# Images in one forward pass without gradients; results depend on it by rounding only. More are no
# faster on a CPU, and their maps would come on top of what training leaves in memory. A GPU is busy
# with more of those that are small.
EVAL_BATCH = 250
EVAL_BATCH_GPU, SMALL = 1000, 64  # pixels a side


@dataclass(frozen=True)
class Predictions:
    """Classes predicted for the N test images of all seen classes, best first, k = min(5, seen).

    cnn: (N, k) int64, by the classifier. nme: (N, k) int64, by the nearest mean of exemplars, or
    None where there are none. targets: (N,) int64. A class is its position in the class order.
    """

    cnn: np.ndarray
    nme: np.ndarray | None
    targets: np.ndarray


class Learner(ABC):
    """A class-incremental learner; see the module's docstring for its life.

    Of several processes all call the same methods in the same order, but end_task() and evaluate()
    are for rank 0 alone, and follow() for all after them.

    Attributes:
        run: what it works with.
        method: its row in models/methods.py.
        nets: "network", which is tested, and what else the method keeps, a "teacher" for instance.
        memory: the exemplars.
        task: the present one, from 0; -1 before the first.
        weight_norms: per task, the lengths of the classifier's rows before and after alignment.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.config, self.tasks = run, run.config, run.tasks
        row = self.method = find_method(run.config.model_name)
        self.engine = Engine(run, row.loss_parts, self._test_accuracy)
        self.memory = ExemplarMemory(
            self.config.memory_size, self.config.fixed_memory, self.config.memory_per_class
        )
        network = AdaptiveNet(self.config.convnet_type, row.trunks, row.blocks, row.aux_head)
        self.nets = {"network": self._placed(network)}
        self.task = -1
        self.weight_norms: list[dict[str, list[float]]] = []
        self._teaching: nn.Module | None = None
        # Of the exemplars, (seen, feature_dim), and the task after which they were computed.
        self._class_means: tuple[int, Tensor] | None = None

    @property
    def network(self) -> AdaptiveNet:
        """What is tested and herds."""
        return self.nets["network"]

    @property
    def known_classes(self) -> int:
        """Number of classes of the earlier tasks."""
        return self.tasks.known_classes(self.task)

    @property
    def seen_classes(self) -> int:
        """Number of classes up to and including this task."""
        return self.tasks.seen_classes(self.task)

    @property
    def new_classes(self) -> int:
        """Number of classes of this task."""
        return self.seen_classes - self.known_classes

    # -- a task ------------------------------------------------------------------------------------

    def begin_task(self) -> None:
        """Move on to the next task: the network grows for its classes."""
        self.task += 1
        self.network.grow(self.new_classes)

    def learn_task(self) -> None:
        """Train on the task, or, for the first one under --skip, load what was trained before.

        Goes on where `load_state_dict` left it. After a first task that was loaded the data are
        drawn as they would have been after training it, if the file tells where that was.

        Raises:
            TrainingError: the loss became infinite or NaN.
            Stopped: the run was asked to stop, and was saved.
        """
        if self.task > 0 or not self.config.skip:
            self.train_task()
            return
        run, path = self.run, self.config.init_checkpoint
        loaded = run.group.from_main(
            load_first_task,
            path,
            self.network,
            self.tasks.class_order,
            run.config.dataset,
            run.files,
        )
        ours = self.draws()
        if loaded.draws and all(loaded.draws[key] == ours[key] for key in ("torch_seed", "device")):
            run.generator.set_state(loaded.draws["state"])
        accuracy = loaded.accuracy
        said = "" if accuracy is None else f" (test accuracy stored with it: {accuracy:.2f} %)"
        log.info("task 1: not trained but read from %s%s", path, said)

    @abstractmethod
    def train_task(self) -> None:
        """Learn the task's classes: decide what trains, and call `fit` for every stage."""

    def end_task(self) -> None:
        """Choose the exemplars, and note the classifier's rows if alignment has not done so."""
        if len(self.weight_norms) == self.task:
            norms = self.network.row_norms()
            self.weight_norms.append({"before": norms, "after": norms})
        if self.method.exemplars:
            self.build_memory()
        self.engine.end_task()

    def follow(self, handed: Mapping[str, Any]) -> None:
        """Let every process have what rank 0 has after end_task().

        Args:
            handed: of rank 0's `hand_out`.
        """
        for name, shape in handed["shapes"].items():
            if name not in self.nets or self.nets[name].shape() != shape:
                self.nets[name] = self._built(shape)
            self.run.group.copy_main(self.nets[name])
        self.load_extra_state(handed["extra"])
        self.memory.load_state_dict(handed["exemplars"])
        self.engine.end_task()

    def hand_out(self) -> dict[str, Any]:
        """Return what the other processes need to `follow`, beside the weights."""
        return {
            "shapes": {name: net.shape() for name, net in self.nets.items()},
            "extra": self.extra_state(),
            "exemplars": self.memory.state_dict(),
        }

    # -- what methods are made of ------------------------------------------------------------------

    def fit(
        self,
        name: str,
        losses: Losses,
        schedule: Schedule,
        *,
        net: str = "network",
        images: np.ndarray | None = None,
        **more: Any,
    ) -> bool:
        """Train a stage of the task; for the arguments see `utils.engine.fit.Stage`.

        Args:
            name: of the stage.
            losses: outputs, images, targets -> the parts of the loss.
            schedule: how long and how fast.
            net: which of `nets` trains.
            images: (N,) indices; left open, `training_indices()`.
            more: weights, trains and idle, where they are not the usual ones.

        Returns:
            False if this task's checkpoint says that the stage was over, and with it all that
            follows it up to the next stage.
        """
        images = self.training_indices() if images is None else images
        if "teacher" in self.nets:  # before a step is recorded: nothing may be replaced then
            teacher = self.nets["teacher"].for_inference(self.run.train_dtype)
            self._teaching = self.run.parallel(teacher)
        stage = Stage(name, self.task, self.nets[net], losses, schedule, images, **more)
        return self.engine.fit(stage)

    def schedule(self) -> Schedule:
        """Return the schedule that the settings have for this task."""
        c = self.config
        if self.task == 0:
            first = c.init_epoch, c.init_lr, c.init_weight_decay, c.init_milestones, c.init_lr_decay
            return Schedule(*first, c.init_epoch if c.init_scheduler == "cosine" else None)
        later = c.epochs, c.lrate, c.weight_decay, c.milestones, c.lrate_decay
        return Schedule(*later, c.t_max if c.scheduler == "cosine" else None)

    def training_indices(self) -> np.ndarray:
        """Return all images of this task's classes plus the exemplars of earlier ones, (N,)."""
        new = self.tasks.train_indices(self.known_classes, self.seen_classes)
        return np.concatenate([new, self.memory.indices()])

    def align_weights(self) -> None:
        """From the second task on, scale the new classes' rows to the old ones' mean length.

        For a method to call in end_task, before the exemplars are chosen.
        """
        before = self.network.row_norms()
        if self.task > 0:
            gamma = self.network.align_weights(self.new_classes)
            log.debug("task %d: weight alignment, gamma = %.4f", self.task + 1, gamma)
        self.weight_norms.append({"before": before, "after": self.network.row_norms()})

    def keep_teacher(self) -> None:
        """Keep the network as it is now, for `teach`."""
        teacher = self._built(self.network.shape())
        teacher.load_state_dict(self.network.state_dict())
        self.nets["teacher"] = teacher

    @torch.no_grad()
    def teach(self, images: Tensor) -> dict[str, Tensor]:
        """Return "logits" and "features" of the teacher while a stage trains.

        In evaluation mode, with folded blocks that compute in the precision of training.
        """
        return self._teaching(images)

    def _placed(self, net: AdaptiveNet) -> AdaptiveNet:
        """Make a network ready to train here."""
        if self.config.sync_batchnorm and self.run.group.world > 1:  # copied into later blocks, too
            net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
        net = net.to(self.run.devices[0])
        net.train_dtype = self.run.train_dtype
        if self.config.block_streams and self.engine.uses_graphs():
            net.side_by_side = SideStreams(self.run.devices[0], self.config.block_streams)
        return net

    def _built(self, shape: Mapping[str, Any]) -> AdaptiveNet:
        """Return a network of this shape, in the type of the present one, ready to train here."""
        dtype = next(self.network.parameters()).dtype
        return self._placed(AdaptiveNet.rebuild(shape).to(dtype))

    def _require_shape(self, name: str, shape: Mapping[str, Any]) -> None:
        """Raise ValueError if a network of this shape cannot be one of this run's task."""
        ours = self.network.shape()
        classes = [self.seen_classes, *([] if name == "network" else [self.known_classes])]
        if (
            any(shape[key] != ours[key] for key in ("convnet_type", "trunks", "blocks", "aux_head"))
            or shape["num_blocks"] > self.task + 1
            or shape["classes"] not in classes
        ):
            raise ValueError(f"the {name} does not fit: its shape is {shape}")

    # -- between runs of the program ---------------------------------------------------------------

    def extra_state(self) -> dict[str, Any]:
        """Return what the method keeps beside networks and exemplars, in plain values."""
        return {}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - none to load
        """Take back what `extra_state` gave."""

    def draws(self) -> dict[str, Any]:
        """Return where the random numbers of the data path stand, and of which seed they are."""
        return {
            "torch_seed": self.config.torch_seed,
            "device": self.run.generator.device.type,
            "state": self.run.generator.get_state(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return all that a new learner needs to go on from here, in tensors and plain values.

        Raises:
            TrainingError: a network or the loss is not finite: nothing to go on from.
        """
        training = self.engine.state_dict()
        nets = {
            name: {"shape": net.shape(), "weights": net.state_dict()}
            for name, net in self.nets.items()
        }
        values = [v for net in nets.values() for v in net["weights"].values()]
        if not torch.stack([v.isfinite().all() for v in values if v.is_floating_point()]).all():
            raise TrainingError(
                f"the network's weights are not finite in task {self.task + 1}: try a lower "
                f"--{'init_lr' if self.task == 0 else 'lrate'}"
            )
        blocks = self.engine.blocks
        return {
            "task": self.task,
            "nets": nets,
            "extra": self.extra_state(),
            "exemplars": self.memory.state_dict(),
            "generator": self.run.generator.get_state(),
            "generator_device": self.run.generator.device.type,
            "records": {
                "epochs": self.engine.epochs,
                "weight_norms": self.weight_norms,
                "blocks": blocks.state_dict() if blocks else None,
            },
            "training": training,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back, in a new learner, what `state_dict` gave.

        On another type of device the data path's random numbers are others from here on.

        Raises:
            ValueError, or another of `utils.checkpoint_form.UNFIT`: it is no state of this run.
        """
        if self.method.teacher and state["task"] > 0 and "teacher" not in state["nets"]:
            raise ValueError("there is no teacher")
        self.load_task(state["task"], state["nets"], state["extra"], state["exemplars"])
        generator = self.run.generator
        if state["generator_device"] == generator.device.type:
            generator.set_state(state["generator"])
        else:
            generator.manual_seed(stream_seed(self.config.torch_seed, MOVED_DATA, self.task))
        records, engine = state["records"], self.engine
        engine.epochs, self.weight_norms = list(records["epochs"]), list(records["weight_norms"])
        if engine.blocks and records["blocks"]:
            engine.blocks.load_state_dict(records["blocks"], self.network.path())
        engine.resumed = state["training"]

    def load_task(
        self,
        task: int,
        nets: Mapping[str, Mapping[str, Any]],
        extra: Mapping[str, Any],
        exemplars: Sequence[Tensor],
    ) -> None:
        """Be what a learner was in or after a task.

        Args:
            task: from 0.
            nets: their "shape" and "weights", by name.
            extra: of `extra_state`.
            exemplars: of `memory.state_dict()`.

        Raises:
            ValueError, or the like: that is not of this run.
        """
        self.task = task
        built = {}
        for name, saved in nets.items():
            self._require_shape(name, saved["shape"])
            built[name] = self._built(saved["shape"])
            problem = state_mismatch(built[name].state_dict(), saved["weights"])
            if problem:
                raise ValueError(f"the {name} does not fit: {problem}")
            built[name].load_state_dict(saved["weights"])
        self.nets = built
        self.load_extra_state(extra)
        labels = torch.from_numpy(self.tasks.train_labels)
        for label, indices in enumerate(exemplars):
            if not ((indices >= 0) & (indices < len(labels))).all():
                raise ValueError(f"there is no training image of an exemplar of class {label}")
            if not (labels[indices] == label).all():
                raise ValueError(f"an exemplar of class {label} is an image of another class")
        self.memory.load_state_dict(exemplars)
        self._class_means = None

    def rehearse(self) -> None:
        """Go into the training that `load_state_dict` brought, without a step.

        Raises:
            ValueError, or the like: it does not fit this run.
        """
        if self.engine.resumed is None:
            return
        self.engine.rehearsing = True
        try:
            self.train_task()
        except Rehearsed:
            return
        raise ValueError(f"no stage of a task is called {self.engine.resumed['stage']!r}")

    # -- without gradients -------------------------------------------------------------------------

    @torch.no_grad()
    def forward_all(self, data: ResidentLoader, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Features (N, feature_dim) and logits (N, seen) of N >= 1 images in evaluation mode.

        In full float32, without cuDNN's search for the fastest algorithm: batches here have many
        sizes. Every BatchNorm uses its running statistics and images are not augmented. The network
        that trains is left as it is: this is computed with a folded copy of it.
        """
        network = self.run.parallel(self.network.for_inference())
        features = logits = None
        done = 0
        many = self.run.devices[0].type == "cuda" and self.config.image_side <= SMALL
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
        features, _ = self.forward_all(self.run.train_data, np.concatenate([indices, old]))
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

    def _means_of(self, features: Tensor, images: np.ndarray) -> Tensor:
        """Return the class means (seen, feature_dim) of exemplars with these features."""
        labels = torch.from_numpy(self.tasks.train_labels[images]).to(features.device)
        return class_means(features, labels, self.seen_classes)

    def evaluate(self) -> Predictions:
        """Predict the test images of all seen classes with one pass over them."""
        indices = self.tasks.test_indices(0, self.seen_classes)
        features, logits = self.forward_all(self.run.test_data, indices)
        k, nme = min(5, self.seen_classes), None
        if self.method.exemplars:
            if self._class_means is None or self._class_means[0] != self.task:
                exemplars = self.memory.indices()
                of_exemplars, _ = self.forward_all(self.run.train_data, exemplars)
                self._class_means = self.task, self._means_of(of_exemplars, exemplars)
            nme = nme_predict(features, self._class_means[1], k).cpu().numpy()
        return Predictions(
            cnn=logits.topk(k, dim=1).indices.cpu().numpy(),
            nme=nme,
            targets=self.tasks.test_labels[indices],
        )

    def _test_accuracy(self) -> float:
        """Return the classifier's top-1 on the test images of all seen classes, in percent."""
        indices = self.tasks.test_indices(0, self.seen_classes)
        _, logits = self.forward_all(self.run.test_data, indices)
        predicted = logits.argmax(dim=1, keepdim=True).cpu().numpy()
        return top_k_accuracy(predicted, self.tasks.test_labels[indices])
