"""Masked denoising: the healthy code near an input's code; bits may change only where they look flipped."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from bernoulli_diffusion.process import BernoulliDiffusion
from uad.randomness import uniform_field


@dataclass(frozen=True)
class MaskedDenoising:
    """The outcome for a batch of codes.

    code: the denoised code (N, K, h, w) in {0, 1}; mask: True where a bit was allowed to change, bool (N, K, h, w);
    flip_probability: mean over the steps of the predicted probability that a bit is flipped, float32 (N, K, h, w).
    """

    code: Tensor
    mask: Tensor
    flip_probability: Tensor


def denoising_steps(noise_level: int, denoise_steps: int) -> list[int]:
    """The noise levels visited, L = t_0 > t_1 > ... > t_K = 0: t proportional to (1 - i / K)^2 (equation 16 of
    docs/METHOD.md), rounded, with shorter steps where the noise is weak; with K = L every level."""
    if not 1 <= denoise_steps <= noise_level:
        raise ValueError(f"denoise_steps is in 1..{noise_level} (the noise level), not {denoise_steps}")
    levels = [noise_level]
    for left in range(denoise_steps - 1, -1, -1):
        # Below the level before, and high enough that every step still to come has a level of its own.
        wanted = round(noise_level * (left / denoise_steps) ** 2)
        levels.append(max(left, min(wanted, levels[-1] - 1)))
    return levels


@torch.inference_mode()
def masked_denoise(
    network: Callable[[Tensor, Tensor], Tensor],
    code: Tensor,
    process: BernoulliDiffusion,
    generators: Sequence[torch.Generator],
    noise_level: int = 200,
    prob_threshold: float = 0.5,
    denoise_steps: int | None = None,
    callback: Callable[[int, Tensor, Tensor], None] | None = None,
) -> MaskedDenoising:
    """Noise codes to level L, then denoise them; outside the mask the input's own bits are put back (docs/METHOD.md,
    "Masked denoising").

    Per step from t to s (s = t - 1 unless fewer `denoise_steps` are asked for), with f the flip probability at t:

        mask |= f > P;  x0 = |z_t - f| inside the mask, z_0 outside;  z_s ~ q(z_s | z_t, x0)

    The last step takes the likelier value of each bit instead of drawing it, so that an empty mask returns the input
    bit for bit. P = 0 is unmasked denoising.

    network: (z_t, t) -> log-odds of a flip; code: (N, K, h, w) in {0, 1}; generators: one per code, on the code's
    device; prob_threshold: P in [0, 1]; callback: called after each step with (s, z_s, mask).
    """
    if len(generators) != code.shape[0]:
        raise ValueError(f"{len(generators)} generators for {code.shape[0]} codes")
    if not 0 <= prob_threshold <= 1:
        raise ValueError(f"prob_threshold is a probability, not {prob_threshold}")
    levels = denoising_steps(noise_level, denoise_steps or noise_level)
    # The threshold acts on log-odds: P = 0 passes every bit however small a float its probability would be.
    threshold = torch.logit(torch.tensor(prob_threshold, dtype=torch.float64)).item()
    shape = code.shape[1:]

    def at(level: int) -> Tensor:
        return torch.full((code.shape[0],), level, device=code.device, dtype=torch.long)

    z_0 = code.float()
    z_t = process.q_sample(z_0, at(noise_level), uniform_field(generators, shape))
    mask = torch.zeros_like(z_0, dtype=torch.bool)
    flip_sum = torch.zeros_like(z_0)
    for t, s in pairwise(levels):
        logits = network(z_t, at(t))
        flip = torch.sigmoid(logits)
        flip_sum += flip
        mask |= logits > threshold
        x0 = torch.where(mask, (z_t - flip).abs(), z_0)
        if s == 0:
            z_t = (x0 > 0.5).float()
        else:
            z_t = (uniform_field(generators, shape) < process.posterior(z_t, x0, at(t), at(s))).float()
        if callback is not None:
            callback(s, z_t, mask)
    return MaskedDenoising(z_t, mask, flip_sum / (len(levels) - 1))
