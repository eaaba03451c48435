"""A training step as a CUDA graph: recorded once, then replayed with one call.

The steps are tiny (128 small images, 16 to 64 channels), so that a GPU is done with a kernel
before Python has launched the next one. A graph launches all of them at once: gather, augmentation,
forward, backward and update.

The learning rate is read from the GPU, so that a schedule may change it between replays.

Nothing is run twice or for practice: the first steps with a shape of inputs are ordinary steps
(they let cuDNN choose its algorithms and the optimiser make its buffers), made on the stream that
is recorded from; the next one is recorded and replayed as itself, and so is every later one. Each
shape of inputs, such as an epoch's smaller last batch, is recorded once and has a graph of its own.
What a graph uses must stay where it is: it is made for one stage, and nothing may replace the
network's or the optimiser's tensors while it is used.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

log = logging.getLogger("memo")

ORDINARY_STEPS = 3  # per shape, before it is recorded


class GraphedStep:
    """A training step on a GPU, replayed as a CUDA graph once it has been recorded.

    If it cannot be recorded, that is said once, and it is made as an ordinary step from then on.

    Attributes:
        failed: it could not be recorded.
        replayed: the last step was a recorded one.

    Args:
        step: tensors on the GPU -> one tensor there, which the next call overwrites. It may draw
            from `generator` and from nothing else that is random, and must not wait for the GPU.
        optimizer: what the step updates with; it must take a tensor for its learning rate.
        generator: the CUDA generator that the function draws from.
        recorder: makes ordinary steps and recordings; a test on a machine without a GPU gives its
            own.
    """

    def __init__(
        self,
        step: Callable[..., Tensor],
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
        recorder: "Recorder | None" = None,
    ) -> None:
        self.failed = self.replayed = False
        self._step = step
        self._groups = optimizer.param_groups
        self._rates = [torch.tensor(group["lr"], device=generator.device) for group in self._groups]
        self._filled = [group["lr"] for group in self._groups]
        self._recorder = recorder or Recorder(generator)
        self._ordinary: dict[tuple[torch.Size, ...], int] = {}  # steps made so far, by shape
        self._recorded: dict[tuple[torch.Size, ...], Callable[..., Tensor]] = {}

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Make the step with these inputs."""
        # Ordinary steps read the rate from the GPU too, so that it is the same number to the bit.
        with self._rates_from_the_gpu():
            shapes = tuple(each.shape for each in inputs)
            self.replayed = shapes in self._recorded
            if self.replayed:
                return self._recorded[shapes](*inputs)
            made = self._ordinary[shapes] = self._ordinary.get(shapes, 0) + 1
            if self.failed or made <= ORDINARY_STEPS:
                return self._recorder.ordinary(self._step, inputs)
            reason = self._record(shapes, inputs)
            self.replayed = reason is None
            if self.replayed:
                return self._recorded[shapes](*inputs)
            # Only here has the recording that failed given back its memory.
            self.failed = True
            self._recorded.clear()
            log.warning(
                "the training step could not be recorded as a CUDA graph (%s): going on without, "
                "which gives the same results more slowly; --no-cuda_graph keeps from trying",
                reason,
            )
            return self._recorder.ordinary(self._step, inputs)

    def _record(self, shapes: tuple[torch.Size, ...], inputs: tuple[Tensor, ...]) -> str | None:
        """Record the step for these shapes; return why that is not possible, None if it was."""
        try:
            self._recorded[shapes] = self._recorder.record(self._step, inputs)
        except Exception as error:  # whatever it is: an ordinary step says if that is broken too
            # An error in the step makes ending the recording fail too: the first cause counts.
            first = error
            while first.__context__ is not None:
                first = first.__context__
            lines = str(first).splitlines()
            return lines[0] if lines else type(first).__name__
        return None

    @contextmanager
    def _rates_from_the_gpu(self) -> Iterator[None]:
        # Inside only: the schedule and the checkpoints work with plain numbers.
        plain = [group["lr"] for group in self._groups]
        for index, (group, rate) in enumerate(zip(self._groups, self._rates, strict=True)):
            if plain[index] != self._filled[index]:  # filling is a launch of its own
                rate.fill_(plain[index])
                self._filled[index] = plain[index]
            group["lr"] = rate
        try:
            yield
        finally:
            for group, rate in zip(self._groups, plain, strict=True):
                group["lr"] = rate


class Recorder:
    """Makes steps on a stream of its own, and recordings of them, on the generator's GPU."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator
        self._device = generator.device
        self._stream = torch.cuda.Stream(self._device)

    def ordinary(self, step: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Tensor:
        """Make a step as it is, where it will be recorded."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = step(*inputs)
        current.wait_stream(self._stream)
        return result

    def record(
        self, step: Callable[..., Tensor], inputs: tuple[Tensor, ...]
    ) -> Callable[..., Tensor]:
        """Record a step without making it; return what makes it, whatever the inputs are then.

        Raises:
            Exception: it cannot be recorded; nothing has happened, and steps can be made.
        """
        held = tuple(each.clone() for each in inputs)
        graph = torch.cuda.CUDAGraph()
        # The device's default generator is part of every recording, whoever draws from it.
        generators = self._generator, torch.cuda.default_generators[self._device.index]
        states = [each.get_state() for each in generators]
        current = torch.cuda.current_stream(self._device)
        # A recording that fails may leave PyTorch on its stream, and the generators in the middle
        # of it: the outer context puts back the one, new states the others. What PyTorch 2.11 does
        # not get out of is that nothing more can be recorded in the process
        # (github.com/pytorch/pytorch/issues/180395).
        with torch.cuda.device(self._device), torch.cuda.stream(current):
            try:
                # Replays draw what ordinary steps would have drawn, and move the generator on.
                # Newer versions of PyTorch see to that themselves.
                register = getattr(graph, "register_generator_state", None)
                if register is not None:
                    with warnings.catch_warnings():
                        warnings.filterwarnings("ignore", ".*register_generator_state")
                        register(self._generator)
                with torch.cuda.graph(graph, stream=self._stream):
                    result = step(*held)
            except Exception:
                # cuDNN's search empties the allocator's cache, which would fail from now on, too.
                torch.backends.cudnn.benchmark = False
                for generator, state in zip(generators, states, strict=True):
                    fresh = torch.Generator(self._device)
                    fresh.set_state(state)
                    generator.graphsafe_set_state(fresh.graphsafe_get_state())
                raise

        def replay(*given: Tensor) -> Tensor:
            for mine, each in zip(held, given, strict=True):
                mine.copy_(each)
            graph.replay()
            return result

        return replay


class SideStreams:
    """Lets parts of a recorded step run at the same time.

    A large GPU is not filled by one small block of a network. While a graph is recorded, each part
    but the last goes to the next of some side streams; the replayed graph computes what is on
    different streams at the same time, forward and (autograd computes a gradient on the stream of
    its operation) backward. The kernels are the same, and so are the numbers.

    Args:
        device: the GPU.
        number: of side streams.
    """

    def __init__(self, device: torch.device, number: int) -> None:
        self._streams = [torch.cuda.Stream(device) for _ in range(number)]

    def __call__(self, parts: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> list[Tensor]:
        """Return what each part makes of x, in ordinary steps one after the other."""
        if not _is_recording(x):
            return [part(x) for part in parts]
        main = torch.cuda.current_stream(x.device)
        results = []
        for number, part in enumerate(parts[:-1]):
            stream = self._streams[number % len(self._streams)]
            stream.wait_stream(main)
            x.record_stream(stream)
            with torch.cuda.stream(stream):
                results.append(part(x))
            results[-1].record_stream(main)
        results.append(parts[-1](x))
        for stream in self._streams[: len(parts) - 1]:
            main.wait_stream(stream)
        return results


def _is_recording(x: Tensor) -> bool:
    return x.is_cuda and torch.cuda.is_current_stream_capturing()
