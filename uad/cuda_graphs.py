"""CUDA graphs: the many short kernels of a network launched at once, where the host is slower than the device.

A recording holds for the shapes that it was made with, and reads weights where they are: they may change in place.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from uad.precision import working_dtype

# So often a call runs before it is recorded, so that libraries have chosen their kernels and taken their memory.
WARM_UPS = 3


def record_training(network: nn.Module, inputs: tuple[Tensor, ...], amp: str) -> None:
    """Record the forward and the backward pass of a network in training, in place, for inputs of these shapes.

    Afterwards it is called as ever, in training with such inputs only, which need no gradient; copies made before stay
    as they are. For one process, and one call a step: the gradients of every call are written into the same memory.
    To be done before other threads use the device, as a loader's that pins memory.
    """
    with _autocast(amp):
        torch.cuda.make_graphed_callables(network, inputs, num_warmup_iters=WARM_UPS)


class GraphedInference:
    """A function of tensors without gradients, recorded for the shapes of its first call and replayed for these.

    Other shapes, as those of a folder's last batch, are computed as ever. The output is a copy of its own. amp: off,
    bf16 or fp16, as what is around the calls has it.
    """

    def __init__(self, function: Callable[..., Tensor], amp: str):
        self.function, self.amp = function, amp
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        if self._graph is None:
            self._record(inputs)
        if [(x.shape, x.dtype) for x in inputs] != [(x.shape, x.dtype) for x in self._inputs]:
            return self.function(*inputs)
        for held, given in zip(self._inputs, inputs, strict=True):
            held.copy_(given)
        self._graph.replay()
        return self._output.clone()

    def _record(self, inputs: tuple[Tensor, ...]) -> None:
        self._inputs = [tensor.clone() for tensor in inputs]
        with _autocast(self.amp):
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(WARM_UPS):
                    self.function(*self._inputs)
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._output = self.function(*self._inputs)
        self._graph = graph


def _autocast(amp: str) -> torch.autocast:
    """Autocast without its memory of casts: what a recording reads must be made within it."""
    return torch.autocast("cuda", working_dtype(amp), enabled=amp != "off", cache_enabled=False)
