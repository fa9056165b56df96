"""Masked Bernoulli diffusion as a method of anomaly detection: image -> code -> masked denoising -> image."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from bernoulli_diffusion.detect import masked_denoise
from bernoulli_diffusion.process import BernoulliDiffusion
from uad.inference import Reconstruction
from uad.precision import autocast
from uad.randomness import uniform_field
from uad.scores import anomaly_map


class MaskedBernoulliDiffusion:
    """The detector.

    encode: images (N, C, S, S) -> bit probabilities (N, K, h, w); decode: bits -> images; network and process: the
    diffusion model; code_bits: `threshold` probabilities at 0.5, or `sample` them; amp: off, bf16 or fp16, for the
    networks only; score: see uad.scores; spacing: of the denoising steps, see denoising_steps.
    """

    def __init__(
        self,
        encode: Callable[[Tensor], Tensor],
        decode: Callable[[Tensor], Tensor],
        network: nn.Module,
        process: BernoulliDiffusion,
        noise_level: int = 200,
        prob_threshold: float = 0.5,
        denoise_steps: int | None = None,
        code_bits: str = "threshold",
        amp: str = "off",
        score: str = "paper",
        spacing: str = "even",
        polarity: Sequence[int] | None = None,
    ):
        self.encode, self.decode, self.network, self.process = encode, decode, network, process
        self.noise_level, self.prob_threshold, self.denoise_steps = noise_level, prob_threshold, denoise_steps
        self.code_bits, self.amp, self.spacing = code_bits, amp, spacing
        self.score, self.polarity = score, polarity

    @torch.inference_mode()
    def reconstruct(self, images: Tensor, generators: Sequence[torch.Generator]) -> Reconstruction:
        """Reconstruction and anomaly map, with the autoencoder's own reconstruction, the latent mask (N, K, h, w) and
        the flip probability (N, 2, h, w), mean and maximum over the bits of a position, as extras."""
        with autocast(self.amp, images.device):
            code = self._bits(self.encode(images), generators)
            own = self.decode(code).float().clamp(0, 1)

        def flip_log_odds(z_t: Tensor, t: Tensor) -> Tensor:
            with autocast(self.amp, images.device):
                return self.network(z_t, t)

        outcome = masked_denoise(
            flip_log_odds,
            code,
            self.process,
            generators,
            self.noise_level,
            self.prob_threshold,
            self.denoise_steps,
            spacing=self.spacing,
        )
        with autocast(self.amp, images.device):
            reconstruction = self.decode(outcome.code).float().clamp(0, 1)
        flip = outcome.flip_probability
        return Reconstruction(
            image=reconstruction,
            anomaly_map=anomaly_map(images, reconstruction, self.score, flip.mean(1), self.polarity),
            extras={
                "autoencoder": own,
                "latent_mask": outcome.mask.to(torch.uint8),
                "flip_probability": torch.stack([flip.mean(1), flip.amax(1)], dim=1),
            },
            numbers={
                "network_evaluations": torch.full((len(images),), self.denoise_steps or self.noise_level),
                "mask_share": outcome.mask.float().mean((1, 2, 3)),
                "changed_share": (outcome.code != code).float().mean((1, 2, 3)),
            },
        )

    def _bits(self, probability: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        if self.code_bits == "threshold":
            return (probability > 0.5).float()
        return (uniform_field(generators, probability.shape[1:]) < probability).float()
