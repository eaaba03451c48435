"""What the learner of a run works with, as one object in place of ten arguments."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from utils.config import Config
from utils.control import Control
from utils.data_manager import DataManager
from utils.distributed import Group
from utils.file_loader import FileLoader
from utils.loader import ResidentLoader
from utils.precision import autocast_dtype, resolve_precision
from utils.progress import Display
from utils.seeds import DATA, stream_seed


@dataclass
class Run:
    """What the learner of a run works with.

    Attributes:
        config: its settings.
        tasks: class order and task splits.
        train_data: the training images.
        test_data: the test images, never seen by training or herding.
        devices: where to compute; several mean nn.DataParallel over them. The data live on the
            first one.
        group: the processes that train together.
        control: asked after every step and epoch whether to save or to stop.
        display: what the terminal shows meanwhile.
        files: which image files these are, where the data are files.
        write_epochs: is given the rows of training.csv so far, whenever there is one more.
        generator: what the data path draws from, and nothing else, so that what the network draws
            (initial weights) and what the data draw (order, crops, flips) cannot disturb each
            other.
        precision: of training.
    """

    config: Config
    tasks: DataManager
    train_data: ResidentLoader | FileLoader
    test_data: ResidentLoader | FileLoader
    devices: list[torch.device]
    group: Group = field(default_factory=Group)
    control: Control = field(default_factory=Control)
    display: Display = field(default_factory=Display)
    files: str | None = None
    write_epochs: Callable[[Sequence[dict[str, Any]]], None] = lambda rows: None
    generator: torch.Generator = field(init=False)
    precision: str = field(init=False)

    def __post_init__(self) -> None:
        """Make what follows from the rest."""
        seed = stream_seed(self.config.torch_seed, DATA)
        self.generator = torch.Generator(self.devices[0]).manual_seed(seed)
        self.precision = resolve_precision(self.config.precision, self.devices[0])
        self.train_data.share = lambda n: self.group.share_and_weight(n)[0]

    @property
    def train_dtype(self) -> torch.dtype | None:
        """What blocks compute in while they train; None is the type of their weights."""
        return autocast_dtype(self.precision)

    def parallel(self, network: nn.Module) -> nn.Module:
        """Return a network spread over the devices when there are several."""
        if len(self.devices) > 1:
            return nn.DataParallel(network, device_ids=[d.index for d in self.devices])
        return network
