"""The Bernoulli diffusion process on bits: schedule, forward noise, posterior, loss. No network, no files.

t = 0 means clean; noise levels are t = 1..T. Codes are float tensors of {0, 1}, (N, K, h, w); t is integer, (N,).
With a_t = 1 - beta_t and A_t = a_1 ... a_t (`alpha_bar[t]`, A_0 = 1):

    q(z_t | z_{t-1}) = Bernoulli(a_t z_{t-1} + (1 - a_t) / 2)     (equation 8 of docs/METHOD.md)
    q(z_t | z_0)     = Bernoulli(A_t z_0 + (1 - A_t) / 2)         (equation 9)

Source: Wang et al., Binary Latent Diffusion (CVPR 2023); Wolleb et al. (MICCAI 2024).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

NOISE_SCHEDULES = ("linear", "cosine")
NOISE_KERNELS = ("symmetric", "released")


def alpha_bar_table(noise_schedule: str, diffusion_steps: int) -> Tensor:
    """A_0..A_T, float64 (T + 1,), A_0 = 1.

    linear: beta from 1e-4 to 2e-2 at T = 1000 and scaled by 1000 / T otherwise; cosine: A_t proportional to
    cos^2(pi/2 (t/T + 0.008) / 1.008) with beta at most 0.999 (Nichol and Dhariwal, ICML 2021).
    """
    steps = torch.arange(diffusion_steps + 1, dtype=torch.float64)
    if noise_schedule == "linear":
        scale = 1000 / diffusion_steps
        beta = torch.linspace(1e-4 * scale, 2e-2 * scale, diffusion_steps, dtype=torch.float64).clamp(max=0.999)
    elif noise_schedule == "cosine":
        angle = (steps / diffusion_steps + 0.008) / 1.008 * math.pi / 2
        target = torch.cos(angle) ** 2
        beta = (1 - target[1:] / target[:-1]).clamp(max=0.999)
    else:
        raise ValueError(f"noise_schedule is one of {NOISE_SCHEDULES}, not {noise_schedule!r}")
    return torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - beta, 0)])


@dataclass(frozen=True)
class LossTerms:
    """What one evaluation of the loss tells, each (N,), float32.

    loss: cross entropy per bit, in nats; noise_entropy: that of a network which knows only t, i.e. the entropy of the
    noise itself. Their ratio says what the network learned: 1 is nothing.
    """

    loss: Tensor
    noise_entropy: Tensor


class BernoulliDiffusion:
    """Forward noise, posterior and loss for a given schedule.

    noise_kernel: `symmetric` is the process above. `released` reproduces the released code's forward noise, which lacks
    the term (1 - A_t) / 2, so that bits only ever flip from 1 to 0; it is for checkpoints trained with it. The
    posterior is the symmetric one in both, as in the released code.
    """

    def __init__(self, diffusion_steps: int = 1000, noise_schedule: str = "linear", noise_kernel: str = "symmetric"):
        if noise_kernel not in NOISE_KERNELS:
            raise ValueError(f"noise_kernel is one of {NOISE_KERNELS}, not {noise_kernel!r}")
        self.diffusion_steps, self.noise_kernel = diffusion_steps, noise_kernel
        self.alpha_bar = alpha_bar_table(noise_schedule, diffusion_steps)
        self._tables: dict[torch.device, Tensor] = {}  # float32 copies of alpha_bar, one per device

    def noise_log_odds(self) -> Tensor:
        """log(e_t / (1 - e_t)) with e_t = (1 - A_t) / 2, float32 (T + 1,); minus infinity at t = 0."""
        return (torch.log1p(-self.alpha_bar) - torch.log1p(self.alpha_bar)).float()

    def _alpha_bar(self, t: Tensor) -> Tensor:
        """A_t, float32 (N, 1, 1, 1), on t's device."""
        if t.device not in self._tables:
            self._tables[t.device] = self.alpha_bar.to(t.device, torch.float32)
        return self._tables[t.device][t][:, None, None, None]

    def q_sample(self, z_0: Tensor, t: Tensor, uniform: Tensor) -> Tensor:
        """z_t ~ q(z_t | z_0), with `uniform` (N, K, h, w) in [0, 1) as the source of randomness."""
        alpha_bar = self._alpha_bar(t)
        probability = alpha_bar * z_0
        if self.noise_kernel == "symmetric":
            probability = probability + (1 - alpha_bar) / 2
        return (uniform < probability).to(z_0.dtype)

    def posterior(self, z_t: Tensor, x0: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Probability that z_s = 1 given z_t and x0, for any 0 <= s < t (equation 10).

        x0 may hold probabilities in [0, 1].

        With r = A_t / A_s:  u1 = (r z_t + (1 - r) / 2) (A_s x0 + (1 - A_s) / 2),
                             u0 = (r (1 - z_t) + (1 - r) / 2) (A_s (1 - x0) + (1 - A_s) / 2),  u1 / (u1 + u0).
        """
        a_s = self._alpha_bar(s)
        r = self._alpha_bar(t) / a_s
        u1 = (r * z_t + (1 - r) / 2) * (a_s * x0 + (1 - a_s) / 2)
        u0 = (r * (1 - z_t) + (1 - r) / 2) * (a_s * (1 - x0) + (1 - a_s) / 2)
        return u1 / (u1 + u0)

    def training_loss(
        self,
        network: Callable[[Tensor, Tensor], Tensor],
        z_0: Tensor,
        t: Tensor,
        uniform: Tensor,
        shown: Tensor | None = None,
    ) -> LossTerms:
        """Cross entropy between predicted and true flips z_t XOR z_0, from logits in float32 (equations 11 and 12).

        shown: the code that the noise is added to, where that is not z_0 itself but a code from which the network shall
        find back to z_0 (that of the same image with a synthetic lesion).
        """
        z_t = self.q_sample(z_0 if shown is None else shown, t, uniform)
        flips = (z_t != z_0).float()
        logits = network(z_t, t).float()
        loss = F.binary_cross_entropy_with_logits(logits, flips, reduction="none").mean(dim=(1, 2, 3))
        return LossTerms(loss, self._noise_entropy(z_0, t))

    def _noise_entropy(self, z_0: Tensor, t: Tensor) -> Tensor:
        """Entropy in nats of the flip of one bit (equation 13), (N,), averaged over the bits that can flip."""
        alpha_bar = self._alpha_bar(t).flatten()
        # A bit flips at rate (1 - A_t) / 2; with the released kernel only bits that are set do, at twice that rate.
        rate = (1 - alpha_bar) / 2 if self.noise_kernel == "symmetric" else z_0.mean((1, 2, 3)) * (1 - alpha_bar)
        return torch.special.entr(rate) + torch.special.entr(1 - rate)
