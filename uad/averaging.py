"""The moving average (EMA) of a network's weights that a training keeps for inference."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def moving_average(module: nn.Module, beta: float) -> AveragedModel:
    """A copy of a network in evaluation mode, whose weights follow those of the network at every `update_parameters`.

    The decay at the n-th update is min(beta, (1 + n) / (10 + n)): this warm-up lets short trainings forget their random
    start.
    """
    return AveragedModel(module, multi_avg_fn=_warmed_up(beta)).eval()


def _warmed_up(beta: float) -> Callable:
    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        n = int(count)
        torch._foreach_lerp_(averaged, current, 1 - min(beta, (1 + n) / (10 + n)))

    return update
