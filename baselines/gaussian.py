"""What the Gaussian-diffusion methods share: MONAI's schedules, drawing per image, and partial reverse chains.

Time steps are counted from 0: abar_t is the product of (1 - beta) over steps 0..t, so t = L - 1 means L noising steps.
Equations: Ho et al., "Denoising diffusion probabilistic models", 2020. Nothing is clipped unless it is asked for, and
the noise of a step may be any field, not only a Gaussian one.
"""

from collections.abc import Callable, Sequence

import torch
from monai.networks.schedulers import DDPMScheduler
from torch import Tensor, nn

from uad.precision import autocast

Noise = Callable[[int], Tensor]
Predict = Callable[[Tensor, int], Tensor]


class Scheduler(DDPMScheduler):
    """MONAI's scheduler; `abar` and `beta` are its tables as numbers.

    The tensors move to the images' device with the first noise that is added. Reading one of their values there would
    make every step wait for the device.
    """

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.abar, self.beta = self.alphas_cumprod.tolist(), self.betas.tolist()


def make_scheduler(
    schedule: str, steps: int, beta_start: float | None = None, beta_end: float | None = None
) -> Scheduler:
    """MONAI's scheduler of `steps` steps without clipping; schedule: linear_beta, scaled_linear_beta (both with their
    first and last beta) or cosine."""
    betas = {} if schedule == "cosine" else {"beta_start": beta_start, "beta_end": beta_end}
    return Scheduler(steps, schedule, clip_sample=False, **betas)


def draw_steps(generators: Sequence[torch.Generator], stop: int) -> Tensor:
    """Uniform time steps in 0..stop - 1, (N,) int64, step i from generator i, on its device."""
    return torch.cat([torch.randint(stop, (1,), generator=g, device=g.device) for g in generators])


def per_image_noise(generators: Sequence[torch.Generator], shape: Sequence[int]) -> Tensor:
    """Standard normal numbers (N, *shape), image i drawn from generator i, on its device."""
    return torch.stack([torch.randn(*shape, generator=g, device=g.device) for g in generators])


def q_sample(scheduler: Scheduler, clean: Tensor, noise: Tensor, t: Tensor | int) -> Tensor:
    """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise; t: (N,) int64, or one step for the whole batch."""
    steps = torch.full((len(clean),), t, device=clean.device) if isinstance(t, int) else t
    return scheduler.add_noise(clean, noise, steps)


def predicted_clean(
    scheduler: Scheduler, x_t: Tensor, noise: Tensor, t: int, clip: tuple[float, float] | None = None
) -> Tensor:
    """x_0 = (x_t - sqrt(1 - abar_t) noise) / sqrt(abar_t), clipped to the range `clip` if there is one."""
    abar = scheduler.abar[t]
    clean = (x_t - (1 - abar) ** 0.5 * noise) / abar**0.5
    return clean if clip is None else clean.clamp(*clip)


def posterior(scheduler: Scheduler, x_t: Tensor, clean: Tensor, t: int) -> tuple[Tensor, float]:
    """Mean and variance of q(x_{t-1} | x_t, x_0): the mean like x_t, the variance beta_t (1-abar_{t-1})/(1-abar_t)."""
    if t == 0:
        # Exactly; by the formula, 1 - abar_0 would lose its digits in float32.
        return clean, 0.0
    beta, abar, before = scheduler.beta[t], scheduler.abar[t], scheduler.abar[t - 1]
    of_clean = before**0.5 * beta / (1 - abar)
    of_noisy = (1 - beta) ** 0.5 * (1 - before) / (1 - abar)
    return of_clean * clean + of_noisy * x_t, beta * (1 - before) / (1 - abar)


def ancestral_step(
    scheduler: Scheduler, x_t: Tensor, clean: Tensor, t: int, noise: Tensor | None, variance: str = "fixed_small"
) -> Tensor:
    """x_{t-1} from x_t and the predicted x_0; variance: fixed_small (the posterior's) or fixed_large (beta_t).

    noise: like x_t; it is not used at t = 0, where the step ends at its mean.
    """
    mean, small = posterior(scheduler, x_t, clean, t)
    if t == 0:
        return mean
    spread = {"fixed_small": small, "fixed_large": scheduler.beta[t]}[variance]
    return mean + spread**0.5 * noise


def reverse_chain(
    scheduler: Scheduler, x_t: Tensor, start: int, predict: Predict, noise: Noise, variance: str = "fixed_small"
) -> Tensor:
    """x_0 from x_start by start + 1 ancestral steps.

    predict(x_t, t) -> predicted x_0; noise(t) -> noise of the step from t to t - 1, called for t > 0 only.
    """
    for t in range(start, -1, -1):
        clean = predict(x_t, t)
        x_t = ancestral_step(scheduler, x_t, clean, t, noise(t) if t > 0 else None, variance)
    return x_t


def run_network(network: nn.Module, x_t: Tensor, t: Tensor | int, amp: str = "off") -> Tensor:
    """The network's output in float32, for detection: evaluated in mixed precision `amp`; t: (N,), or one step for all.

    In training the loop's own autocast is active, and a loss calls its network directly.
    """
    steps = torch.full((len(x_t),), t, device=x_t.device) if isinstance(t, int) else t
    with autocast(amp, x_t.device):
        return network(x_t, steps).float()


def clean_predictor(scheduler: Scheduler, network: nn.Module, amp: str = "off") -> Predict:
    """x_0 in [-1, 1] by a network that predicts the noise, for a reverse chain."""

    def predict(x_t: Tensor, t: int) -> Tensor:
        return predicted_clean(scheduler, x_t, run_network(network, x_t, t, amp), t, clip=(-1, 1))

    return predict
