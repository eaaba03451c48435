"""The methods the way such code is usually written: what utils/ and models/ are measured against.

The same method on the same network (convs/, held by an AdaptiveNet), and nothing of the rest:

- every image is a PIL image, transformed by torchvision one at a time in a DataLoader;
- float32, NCHW, the modules as they are, one after the other. What is frozen, DER's old backbones
  for instance, is in evaluation mode and asks for no gradient; a teacher is a copy of the old
  network in evaluation mode, under no_grad;
- losses and correct answers are read in every step (four times, as the authors' program does);
- the memory is built class by class: a loader for each old class, to compute its mean anew from its
  exemplars, and two for each new one, to herd and then to compute the mean. After ten tasks of ten
  classes that is 90 + 2 x 10 = 110 loaders;
- the test images are passed through the network twice, for the classifier and for NME.

It is a stand-in for the published programs on machines where those cannot run, written from the
facts of the methods alone. Of all methods tests/test_speed.py holds a step to that of models/; of
MEMO the exemplars and predictions, too.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from utils.inc_net import AdaptiveNet

MOMENTUM = 0.9
TEMPERATURE = 2.0


class PilImages(Dataset):
    """Images of given rows of an array, each through a torchvision transform.

    Args:
        images: `(N, 32, 32, 3) uint8`.
        labels: `(N,)` integer.
        rows: which of them, in order.
        transform: PIL image -> tensor.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, rows: np.ndarray, transform):
        self.images, self.labels, self.rows = images, labels, rows
        self.transform = transform

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        row = self.rows[index]
        return self.transform(Image.fromarray(self.images[row])), int(self.labels[row])


class PlainLearner:
    """A learner in the middle of its life: so many classes known, so many seen.

    Args:
        network: grown to the task; its weights are used as they are.
        train: `(N, 32, 32, 3) uint8` images and `(N,)` labels (positions in the class order).
        test: the test images, likewise.
        memory: rows of the training images kept of each old class, in herding order.
        known_classes: classes of earlier tasks.
        seen_classes: those and the task's own.
        mean: per channel, of pixels in [0, 1].
        std: likewise.
        device: where to compute.
        memory_size: exemplars in all.
        batch_size: images per batch, of every loader.
        num_workers: processes per loader, started for every epoch.
        lr: learning rate.
        weight_decay: as SGD's.
        train_base: whether the trunk learns after the first task.
        teacher: the network as it was before it grew, for the methods that distil.
        second_weight: in the loss, of the auxiliary classifier's or the teacher's term.
    """

    def __init__(
        self,
        network: AdaptiveNet,
        train: tuple[np.ndarray, np.ndarray],
        test: tuple[np.ndarray, np.ndarray],
        memory: list[np.ndarray],
        known_classes: int,
        seen_classes: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        *,
        device: torch.device,
        memory_size: int,
        batch_size: int = 128,
        num_workers: int = 0,
        lr: float = 0.1,
        weight_decay: float = 2e-4,
        train_base: bool = True,
        teacher: AdaptiveNet | None = None,
        second_weight: float = 1.0,
    ):
        self.network = network.to(device, memory_format=torch.contiguous_format)
        self.teacher, self.second_weight = teacher, second_weight
        if teacher is not None:
            teacher.to(device, memory_format=torch.contiguous_format).eval()
        self.train, self.test = train, test
        self.memory = list(memory)
        self.means: np.ndarray | None = None  # (seen, features), once the memory has been built
        self.known_classes, self.seen_classes = known_classes, seen_classes
        self.device = device
        self.memory_size = memory_size
        self.batch_size, self.num_workers = batch_size, num_workers
        self.lr, self.weight_decay = lr, weight_decay
        self.train_base = train_base
        normalise = [transforms.ToTensor(), transforms.Normalize(mean, std)]
        self.transform_test = transforms.Compose(normalise)
        self.transform_train = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ColorJitter(brightness=63 / 255),
                *normalise,
            ]
        )

    # -- training ----------------------------------------------------------------------------------

    def training_rows(self) -> np.ndarray:
        """Return the rows of the task's images and of the exemplars."""
        labels = self.train[1]
        new = np.flatnonzero((labels >= self.known_classes) & (labels < self.seen_classes))
        return np.concatenate([new, *self.memory])

    def make_optimizer(self) -> torch.optim.SGD:
        """Freeze what does not learn, and make an SGD over the rest."""
        self.set_modes()
        learns = filter(lambda parameter: parameter.requires_grad, self.network.parameters())
        return torch.optim.SGD(
            learns, lr=self.lr, momentum=MOMENTUM, weight_decay=self.weight_decay
        )

    def set_modes(self) -> None:
        """Put every block in the state that the task trains it in."""
        first = self.known_classes == 0
        self.network.freeze(generalized=not (first or self.train_base), old_specialized=not first)

    def train_batches(self, rows: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield an epoch's shuffled and augmented batches, on the device."""
        data = PilImages(*self.train, rows, self.transform_train)
        loader = DataLoader(data, self.batch_size, shuffle=True, num_workers=self.num_workers)
        for images, targets in loader:
            yield images.to(self.device), targets.to(self.device)

    def forward(self, network: AdaptiveNet, images: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return features, logits and auxiliary logits, one block after the other."""
        maps = network.generalized(images)
        features = [block(maps) for block in network.specialized]
        every = torch.cat(features, dim=1)
        aux = network.aux_classifier
        return every, network.classifier(every), aux(features[-1]) if aux is not None else None

    def second_loss(
        self, images: Tensor, targets: Tensor, logits: Tensor, aux_logits: Tensor | None
    ) -> Tensor:
        """Return the term beside the classifier's: the auxiliary one, the teacher's, or 0."""
        if self.known_classes > 0 and aux_logits is not None:
            aux_targets = targets - self.known_classes + 1
            aux_targets[aux_targets < 0] = 0
            return F.cross_entropy(aux_logits, aux_targets)
        if self.teacher is not None:
            with torch.no_grad():
                _, old_logits, _ = self.forward(self.teacher, images)
            soft = torch.softmax(old_logits / TEMPERATURE, dim=1)
            said = torch.log_softmax(logits[:, : self.known_classes] / TEMPERATURE, dim=1)
            return -(soft * said).sum() / len(images)
        return torch.zeros((), dtype=logits.dtype, device=logits.device)

    def training_step(
        self,
        optimizer: torch.optim.Optimizer,
        images: Tensor,
        targets: Tensor,
        mark: Callable[[str], None] = lambda _: None,
    ) -> tuple[float, float, float, int]:
        """Make one SGD step.

        Args:
            optimizer: of `make_optimizer`.
            images: `(B, 3, 32, 32) float32`, normalised, on the device.
            targets: `(B,) int64`, likewise.
            mark: told "forward" and "backward" when each is over.

        Returns:
            the losses (the whole, classifier, second) and how many images were classified right.
        """
        _, logits, aux_logits = self.forward(self.network, images)
        first = 0 if self.memory else self.known_classes  # Finetune: only new classes compete
        loss_clf = F.cross_entropy(logits[:, first:], targets - first)
        loss_second = self.second_loss(images, targets, logits, aux_logits)
        loss = loss_clf + self.second_weight * loss_second
        mark("forward")
        optimizer.zero_grad()
        loss.backward()
        mark("backward")
        optimizer.step()
        _, predicted = torch.max(logits, dim=1)
        correct = predicted.eq(targets).cpu().sum().item()
        return loss.item(), loss_clf.item(), loss_second.item(), correct

    # -- exemplars ---------------------------------------------------------------------------------

    def build_memory(self) -> None:
        """Cut the old classes' exemplars, herd the new classes; compute every class's mean."""
        quota = self.memory_size // self.seen_classes
        means = []
        for label in range(self.known_classes):
            self.memory[label] = self.memory[label][:quota]
            means.append(_mean(self.features_of(self.memory[label])))
        for label in range(self.known_classes, self.seen_classes):
            rows = np.flatnonzero(self.train[1] == label)
            self.memory.append(rows[_herd(self.features_of(rows), quota)])
            means.append(_mean(self.features_of(self.memory[-1])))
        self.means = np.stack(means)

    def features_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the features of training images, (n, features), each divided by its length."""
        return self._normalised_features(PilImages(*self.train, rows, self.transform_test))

    @torch.no_grad()
    def _normalised_features(self, images: Dataset) -> np.ndarray:
        self.network.eval()
        loader = DataLoader(images, self.batch_size, num_workers=self.num_workers)
        found = [
            self.forward(self.network, batch.to(self.device))[0].cpu().numpy()
            for batch, _ in loader
        ]
        features = np.concatenate(found)
        return features / (np.linalg.norm(features, axis=1, keepdims=True) + 1e-8)

    # -- evaluation --------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self) -> tuple[np.ndarray, np.ndarray]:
        """Predict the test images of all seen classes, best class first.

        Returns:
            (N, k) by the classifier and (N, k) by the nearest mean, k = min(5, classes seen).
        """
        k = min(5, self.seen_classes)
        rows = np.flatnonzero(self.test[1] < self.seen_classes)
        images = PilImages(*self.test, rows, self.transform_test)
        self.network.eval()
        predicted = []
        for batch, _ in DataLoader(images, self.batch_size, num_workers=self.num_workers):
            logits = self.forward(self.network, batch.to(self.device))[1]
            predicted.append(torch.topk(logits, k, dim=1)[1].cpu().numpy())
        features = self._normalised_features(images)
        distances = np.stack([((features - mean) ** 2).sum(axis=1) for mean in self.means], axis=1)
        return np.concatenate(predicted), np.argsort(distances, axis=1, kind="stable")[:, :k]


def _mean(features: np.ndarray) -> np.ndarray:
    mean = features.mean(axis=0)
    return mean / np.linalg.norm(mean)


def _herd(features: np.ndarray, m: int) -> list[int]:
    """Choose m rows, one at a time, whose mean follows the mean of all."""
    mean = features.mean(axis=0)
    left = list(range(len(features)))
    chosen: list[int] = []
    for k in range(1, min(m, len(features)) + 1):
        total = features[chosen].sum(axis=0)
        gaps = np.sqrt(np.sum((mean - (features[left] + total) / k) ** 2, axis=1))
        chosen.append(left.pop(int(np.argmin(gaps))))
    return chosen
