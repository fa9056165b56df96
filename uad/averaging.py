"""The moving average (EMA) of a network's weights that a training keeps for inference."""

from copy import deepcopy

import torch
from torch import nn


class MovingAverage:
    """A copy of a network in evaluation mode, whose weights follow those of the network.

    module: the copy; updates: how often it followed, a number of the host, so that no device is waited for. The decay
    at the n-th further update is min(beta, (1 + n) / (10 + n)): this warm-up lets short trainings forget their random
    start. Buffers are copied.
    """

    def __init__(self, network: nn.Module, beta: float):
        self.module, self.beta, self.updates = deepcopy(network).eval(), beta, 0
        self._network = network

    @torch.no_grad()
    def update(self) -> None:
        """Follow the network; the first time all the way."""
        averaged, current = ([*module.parameters()] for module in (self.module, self._network))
        if self.updates:
            decay = min(self.beta, (1 + self.updates) / (10 + self.updates))
            torch._foreach_lerp_(averaged, current, 1 - decay)
        else:
            torch._foreach_copy_(averaged, current)
        buffers = [*self.module.buffers()]
        if buffers:
            torch._foreach_copy_(buffers, [*self._network.buffers()])
        self.updates += 1
