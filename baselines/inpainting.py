"""Inpainting by diffusion: a part of an image (or of its latents) is generated, given the rest.

The known part is drawn anew from q(x_t | x_0) at every step, the unknown part follows the reverse chain (Lugmayr et
al., "RePaint", 2022, with `resamplings` = U; 1 = without going back). Masks: True = unknown, may change.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from baselines.gaussian import Predict, Scheduler, ancestral_step, per_image_noise, q_sample


def inpaint(
    scheduler: Scheduler,
    x_t: Tensor,
    known: Tensor,
    mask: Tensor,
    start: int,
    predict: Predict,
    generators: Sequence[torch.Generator],
    resamplings: int = 1,
    callback: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """x_0 (N, C, h, w) that equals `known` exactly where the mask is False.

    x_t: what the chain begins with, noised to step `start`; known: the clean image (N, C, h, w); mask: bool, broadcast
    to it; predict(x_t, t) -> predicted x_0; each image's noise comes from its own one of the N generators;
    callback(t, x) sees the state at step t, and at t = -1 the result.
    """
    for t in range(start, -1, -1):
        for remaining in range(resamplings if t > 0 else 1, 0, -1):
            noise = per_image_noise(generators, x_t.shape[1:]) if t > 0 else None
            unknown = ancestral_step(scheduler, x_t, predict(x_t, t), t, noise)
            x_t = torch.where(mask, unknown, _known_at(scheduler, known, t - 1, generators))
            if remaining > 1:
                beta = scheduler.beta[t]
                x_t = (1 - beta) ** 0.5 * x_t + beta**0.5 * per_image_noise(generators, x_t.shape[1:])
        if callback is not None:
            callback(t - 1, x_t)
    return x_t


def inpainting_evaluations(start: int, resamplings: int) -> int:
    """How often `inpaint` evaluates its network."""
    return start * resamplings + 1


def _known_at(scheduler: Scheduler, known: Tensor, t: int, generators: Sequence[torch.Generator]) -> Tensor:
    """The known part at step t; t = -1 is the clean image."""
    if t < 0:
        return known
    return q_sample(scheduler, known, per_image_noise(generators, known.shape[1:]), t)
