"""Several flip networks of one autoencoder as one, whose flip probability is the mean of theirs."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Ensemble(nn.Module):
    """networks: (z_t, t) -> log-odds of a flip; the result: log-odds of the mean of their flip probabilities."""

    def __init__(self, networks: Sequence[nn.Module]):
        super().__init__()
        self.members = nn.ModuleList(networks)

    def forward(self, z_t: Tensor, t: Tensor) -> Tensor:
        """Log-odds (N, K, h, w) float32."""
        log_odds = torch.stack([member(z_t, t).float() for member in self.members])
        # Logarithms of sums: probabilities that a float rounds to 0 or 1 keep their order.
        return F.logsigmoid(log_odds).logsumexp(0) - F.logsigmoid(-log_odds).logsumexp(0)
