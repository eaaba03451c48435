"""The growing network: a trunk, specialized blocks side by side on it, a growing classifier.

    image -> generalized -> specialized[0] ... specialized[b]      (MEMO: one block per task)
          -> concatenate: (b + 1) x block_dim features -> classifier -> logits of all seen classes
    newest block's block_dim features -> aux_classifier -> (new classes + 1) logits

What a task adds to it is two words of its method's row (models/methods.py):

    trunks    blocks
    one       per task    MEMO
    per task  per task    DER: nothing is shared; a "block" is a whole backbone, the trunk is empty
    one       one         a single backbone: only the classifier grows

A task begins with `grow(new_classes)`. What trains is then decided by one call, `freeze(...)`:
`train()` and `eval()` only do what they do in every `nn.Module`, so a learner that calls `train()`
calls `freeze` again afterwards.

A frozen part is in eval mode (BatchNorm uses its running statistics and leaves them alone) and its
parameters ask for no gradient. Nothing runs under `no_grad`, though: when the trunk trains, the
loss reaches it *through* the frozen old blocks as well as through the newest one, which is part of
the method. When nothing below a block asks for a gradient, autograd records nothing there by
itself.

Two things make it fast and change no result but for rounding: all images and weights are laid out
channels last, and frozen parts can be computed with BatchNorm folded into their convolutions:
`fold_frozen()` while training, `for_inference()` for testing.

MEMO's state dicts of the published program load and export by prefix alone (`PUBLISHED_PREFIXES`),
since the backbones in convs/ keep its parameter names.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import convs
from convs.split import building_blocks
from utils.folding import fold

PUBLISHED_PREFIXES = {
    "generalized.": "TaskAgnosticExtractor.",
    "specialized.": "AdaptiveExtractors.",
    "classifier.": "fc.",
    "aux_classifier.": "aux_fc.",
}


class AdaptiveNet(nn.Module):
    """Generalized blocks, a list of specialized blocks, and a growing classifier.

    A new net is one whole backbone without a head; `grow` makes it ready for a task.

    Attributes:
        train_dtype: what the blocks compute in, by autocast, in train mode; None is the type of
            their weights. The classifiers always compute in the type of their weights.
        side_by_side: (blocks, maps) -> what each block makes of the maps, where frozen blocks are
            to be computed at the same time; None computes one after the other.

    Args:
        convnet_type: a backbone of `convs.names()`, with or without `memo_` before it.
        trunks: "one" or "per task", see the module's docstring.
        blocks: likewise.
        aux_head: whether there is an auxiliary classifier.

    Raises:
        ValueError: no backbone has that name.
    """

    def __init__(
        self,
        convnet_type: str,
        trunks: str = "one",
        blocks: str = "per task",
        aux_head: bool = True,
    ) -> None:
        super().__init__()
        backbone = convs.build(convnet_type)
        self.convnet_type = convnet_type.removeprefix("memo_")
        self.trunks, self.blocks, self.aux_head = trunks, blocks, aux_head
        self.block_dim = backbone.feature_dim
        shared = trunks == "one"
        self.generalized = backbone.generalized if shared else nn.Identity()
        self.specialized = nn.ModuleList([backbone.specialized if shared else backbone])
        self.classifier: nn.Linear | None = None
        self.aux_classifier: nn.Linear | None = None
        self.train_dtype: torch.dtype | None = None
        self.side_by_side: Callable[[Sequence[nn.Module], Tensor], Sequence[Tensor]] | None = None
        # Folded copies of frozen parts, by the part. In a dict they are no submodules: they are in
        # no state dict and do not move when the net does.
        self._folded: dict[nn.Module, nn.Module] = {}
        self._folded_dtype: torch.dtype | None = None  # the `train_dtype` they were made for
        self.to(memory_format=torch.channels_last)

    @property
    def feature_dim(self) -> int:
        """Number of concatenated features: `block_dim` for every specialized block."""
        return self.block_dim * len(self.specialized)

    @property
    def num_classes(self) -> int:
        """Classes the classifier knows; 0 before the first `grow`."""
        return 0 if self.classifier is None else self.classifier.out_features

    def grow(self, new_classes: int) -> None:
        """Make room for a task of `new_classes` classes.

        The first task uses the block the net was built with. Every later one adds, where blocks
        are one per task, a specialized block that starts as a copy of the newest, BatchNorm
        statistics included. The classifier grows to (all seen classes) x (all features): the old
        weights and biases go into its top left corner, and everything new, old classes x new
        features too, keeps a fresh init. An auxiliary classifier is new every time.

        New parameters get the net's device and dtype; their init is drawn on the CPU in float32,
        so that a seed means the same numbers on every device.

        Raises:
            ValueError: `new_classes` is not positive.
        """
        if new_classes < 1:
            raise ValueError(f"a task needs at least one new class, not {new_classes}")
        self._folded = {}
        old, seen = self.classifier, self.num_classes + new_classes
        if old is not None and self.blocks == "per task":
            # The block copied from may be frozen; the copy is what this task trains.
            block = copy.deepcopy(self.specialized[-1]).requires_grad_(True)
            self.specialized.append(block.train(self.training))
        self._put_heads(seen, new_classes + 1 if self.aux_head else 0)
        if old is not None:
            with torch.no_grad():
                self.classifier.weight[: old.out_features, : old.in_features] = old.weight
                self.classifier.bias[: old.out_features] = old.bias

    def _put_heads(self, classes: int, aux_classes: int) -> None:
        """Put fresh classifiers of these widths in place; 0 is none."""
        like = next(self.specialized.parameters())

        def fresh(features: int, width: int) -> nn.Linear | None:
            return _new_linear(features, width, like).train(self.training) if width else None

        self.classifier = fresh(self.feature_dim, classes)
        self.aux_classifier = fresh(self.block_dim, aux_classes)

    def shape(self) -> dict[str, Any]:
        """Return, in plain values, all that `rebuild` needs to make a net of the same shape."""
        return {
            "convnet_type": self.convnet_type,
            "trunks": self.trunks,
            "blocks": self.blocks,
            "num_blocks": len(self.specialized),
            "classes": self.num_classes,
            "aux_classes": self.aux_classifier.out_features if self.aux_classifier else 0,
            "aux_head": self.aux_head,
        }

    @classmethod
    def rebuild(cls, shape: Mapping[str, Any]) -> "AdaptiveNet":
        """Return a net of the shape that another one told, with weights of no meaning.

        No random numbers are used up.

        Raises:
            ValueError: no backbone has the name in it.
        """
        with torch.random.fork_rng(devices=[]):
            net = cls(*(shape[key] for key in ("convnet_type", "trunks", "blocks", "aux_head")))
            for _ in range(1, shape["num_blocks"]):
                net.specialized.append(copy.deepcopy(net.specialized[0]))
            net._put_heads(shape["classes"], shape["aux_classes"])
        return net

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Run every block on the trunk's maps.

        Args:
            x: normalised images (N, 3, H, W).

        Returns:
            "logits" (N, num_classes), "features" (N, feature_dim; task order, so the newest
            block's come last) and, in train mode only, "aux_logits" (N, new classes + 1) where
            there is such a head.

        Raises:
            RuntimeError: the net has no classifier yet.
        """
        if self.classifier is None:
            raise RuntimeError("this AdaptiveNet has no classifier yet: call grow(new_classes)")
        dtype = self.train_dtype if self.training else None
        # Copies rounded to another type would not fit what the other parts hand them.
        folded = self._folded if dtype == self._folded_dtype else {}
        # Here and not around the call: autocast holds for one thread, DataParallel has several.
        with torch.autocast(x.device.type, dtype, enabled=dtype is not None):
            trunk = folded.get(self.generalized, self.generalized)
            maps = trunk(x.contiguous(memory_format=torch.channels_last))
            blocks = [folded.get(block, block) for block in self.specialized]
            if self.side_by_side and all(block in folded for block in self.specialized[:-1]):
                features = torch.cat(self.side_by_side(blocks, maps), dim=1)
            else:
                features = torch.cat([block(maps) for block in blocks], dim=1)
        features = features.to(self.classifier.weight.dtype)
        out = {"logits": self.classifier(features), "features": features}
        if self.training and self.aux_classifier is not None:
            out["aux_logits"] = self.aux_classifier(features[:, -self.block_dim :])
        return out

    def path(self, task: int = -1) -> dict[str, nn.Module]:
        """Return the blocks that features of one task pass, by name, shallow to deep.

        Args:
            task: index into `specialized`; -1 is the newest block.
        """
        task = range(len(self.specialized))[task]
        newest, name = self.specialized[task], f"specialized.{task}"
        halves = {"generalized": self.generalized, name: newest}
        if self.trunks == "per task":
            halves = {f"{name}.{half}": child for half, child in newest.named_children()}
        return {
            f"{half}.{block}": found
            for half, module in halves.items()
            for block, found in building_blocks(module).items()
        }

    def freeze(self, *, generalized: bool = False, old_specialized: bool = False) -> None:
        """Decide what trains: puts the net in train mode except for the frozen parts.

        A frozen part is put in eval mode, asks for no gradient and drops the gradients it has.
        Folded copies are dropped.
        Everything else (the newest block and both heads always) trains. In a first task that is
        all: `freeze()`.

        Args:
            generalized: freeze the trunk.
            old_specialized: freeze every specialized block but the newest.
        """
        self._folded = {}
        self.train().requires_grad_(True)
        frozen = [self.generalized] if generalized else []
        if old_specialized:
            frozen += self.specialized[:-1]
        for part in frozen:
            part.eval().requires_grad_(False)
            part.zero_grad(set_to_none=True)

    def fold_frozen(self) -> None:
        """Compute frozen parts with folded copies from now on, until `freeze` or `grow` is called.

        The copies do not follow the parts: call it when the weights are those to train with, on
        the device to train on. They are rounded to `train_dtype` here, once, and not by autocast
        in every step; where the net computes in another type, in eval mode for example, they are
        not used. Not for nn.DataParallel, which copies registered modules only.
        """
        self._folded_dtype = self.train_dtype
        self._folded = {
            part: fold(part, self.train_dtype)
            for part in (self.generalized, *self.specialized)
            if not any(parameter.requires_grad for parameter in part.parameters())
        }

    def for_inference(self, dtype: torch.dtype | None = None) -> "InferenceNet":
        """Return a copy as the net is now: folded, in evaluation mode, without gradients.

        Args:
            dtype: what its blocks compute in, as `train_dtype`; None is the type of the weights.
        """
        return InferenceNet(self, dtype)

    def _apply(self, *args, **kwargs):
        # to(), double(), cuda(): the copies do not come along.
        self._folded = {}
        return super()._apply(*args, **kwargs)

    def load_state_dict(self, state: Mapping[str, Any], *args, **kwargs):
        """As in every module; folded copies of what was before are dropped."""
        self._folded = {}
        return super().load_state_dict(state, *args, **kwargs)

    @torch.no_grad()
    def row_norms(self) -> list[float]:
        """Return the L2 norm of every class's row of the classifier."""
        return self.classifier.weight.norm(dim=1).tolist()

    @torch.no_grad()
    def align_weights(self, new_classes: int) -> float:
        """Scale the newest classes' rows to the mean length of the old ones (Zhao et al., 2020).

        gamma = mean(norms of the old rows) / mean(norms of the new rows), over whole rows; the
        biases and the auxiliary classifier stay as they are.

        Args:
            new_classes: how many of the last rows are new.

        Returns:
            gamma, the factor the new rows were multiplied by.

        Raises:
            ValueError: there would be no old or no new rows.
        """
        if not 0 < new_classes < self.num_classes:
            raise ValueError(
                f"weight alignment needs old and new classes, but {new_classes} of "
                f"{self.num_classes} classes are said to be new"
            )
        weight = self.classifier.weight
        norms = weight.norm(dim=1)
        gamma = norms[:-new_classes].mean() / norms[-new_classes:].mean()
        weight[-new_classes:] *= gamma
        return gamma.item()

    def published_state_dict(self) -> dict[str, Tensor]:
        """Return the state dict under the published program's parameter names."""
        return {_published_name(name): value for name, value in self.state_dict().items()}

    def load_published_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state dict of the published program into a net grown to its size.

        Strict: nothing is loaded unless every name and shape fits. The net keeps its dtype and
        device. Values may be tensors or NumPy arrays.

        Raises:
            ValueError: names are missing or unknown, or shapes differ; the message lists them.
        """
        ours = {_published_name(name): name for name in self.state_dict()}
        values = {name: torch.as_tensor(value) for name, value in state.items()}
        problem = state_mismatch(self.published_state_dict(), values)
        if problem:
            raise ValueError(
                f"the state dict does not fit this {self.convnet_type} of {len(self.specialized)} "
                f"blocks and {self.num_classes} classes: {problem}"
            )
        self.load_state_dict({ours[name]: value for name, value in values.items()})


class InferenceNet(nn.Module):
    """What an AdaptiveNet computes in evaluation mode, with every BatchNorm folded away.

    Args:
        network: the net to copy; it must have grown to a task. Later changes are not followed.
        dtype: what the blocks compute in; None is the type of their weights.
    """

    def __init__(self, network: AdaptiveNet, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.generalized = fold(network.generalized, dtype)
        self.specialized = nn.ModuleList(fold(block, dtype) for block in network.specialized)
        self.classifier = copy.deepcopy(network.classifier).requires_grad_(False)
        self.dtype = dtype
        self.eval()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Normalised images (N, 3, H, W) -> "logits" and "features" as in `AdaptiveNet`."""
        with torch.autocast(x.device.type, self.dtype, enabled=self.dtype is not None):
            maps = self.generalized(x.contiguous(memory_format=torch.channels_last))
            features = torch.cat([block(maps) for block in self.specialized], dim=1)
        features = features.to(self.classifier.weight.dtype)
        return {"logits": self.classifier(features), "features": features}


def state_mismatch(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Say how the state dict `given` differs in names, shapes, types from `expected`; "" if not."""
    problems = []
    for what, keys in [
        ("missing", [key for key in expected if key not in given]),
        ("unexpected", [key for key in given if key not in expected]),
        (
            "of another shape",
            [
                f"{key} {tuple(given[key].shape)} instead of {tuple(value.shape)}"
                for key, value in expected.items()
                if key in given and given[key].shape != value.shape
            ],
        ),
        (
            "not finite or of another type",
            [
                key
                for key, value in expected.items()
                if key in given
                and (
                    given[key].is_floating_point() != value.is_floating_point()
                    or not given[key].isfinite().all()
                )
            ],
        ),
    ]:
        if keys:
            more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
            problems.append(f"{what}: {', '.join(keys[:4])}{more}")
    return "; ".join(problems)


def _published_name(name: str) -> str:
    for ours, published in PUBLISHED_PREFIXES.items():
        if name.startswith(ours):
            return published + name.removeprefix(ours)
    raise ValueError(f"parameter {name} has no published name")


def _new_linear(in_features: int, out_features: int, like: Tensor) -> nn.Linear:
    """Kaiming-uniform weights for a linear output, i.e. U(+-sqrt(3 / in_features)), and bias 0."""
    linear = nn.Linear(in_features, out_features, device="cpu", dtype=torch.float32)
    nn.init.kaiming_uniform_(linear.weight, nonlinearity="linear")
    nn.init.zeros_(linear.bias)
    return linear.to(like.device, like.dtype)
