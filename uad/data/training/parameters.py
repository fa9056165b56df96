"""Random parameters of images: drawn on the host image by image, applied on any device to many images at once.

They are NamedTuples of tensors, because those are what PyTorch's collating and pinning of batches know.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

Rows = TypeVar("Rows", Tensor, NamedTuple)

# Values of images that are changed at a time. More than fit into a core's own cache cost a CPU time; few of them would
# keep the host of a CUDA device busy with launching kernels.
PIECE = {"cpu": 2**19, "cuda": 2**26}


def each(change: Callable[[Tensor], Tensor], parameters: Rows) -> Rows:
    """The parameters, or the tensor, with `change` done to each tensor."""
    if isinstance(parameters, Tensor):
        return change(parameters)
    return parameters._make(change(value) for value in parameters)


def on_device(parameters: Rows, device: torch.device) -> Rows:
    """The parameters on a device, which the host does not wait for."""
    return each(lambda value: value.to(device, non_blocking=True), parameters)


def in_pieces(change: Callable[..., Tensor], images: Tensor, *more: Rows) -> Tensor:
    """change(images, *more) of images (N, C, S, S) whose changes do not depend on each other, some at a time.

    more: tensors or parameters of as many rows.
    """
    return torch.cat([change(*piece) for piece in _pieces(images, *more)])


def _pieces(images: Tensor, *more: Rows) -> Iterator[list]:
    at_a_time = max(1, PIECE[images.device.type] // images[0].numel())
    for start in range(0, len(images), at_a_time):
        rows = slice(start, start + at_a_time)
        yield [each(lambda value, rows=rows: value[rows], value) for value in (images, *more)]
