"""AnoDDPM: an image is noised with simplex noise by L of T steps and denoised by a model of healthy images.

Wyatt et al., "AnoDDPM: anomaly detection with denoising diffusion probabilistic models using simplex noise", CVPR
workshops 2022, on MONAI's network. Simplex noise has large structures, so that lesions are noised away at an L that
keeps the anatomy. Every step of the reverse chain adds a new field, with the variance beta_t ("fixed large").

Departures from the released code, which are corrections: a field of its own for every image and channel at any batch
size, from a random place of the noise; the same network in training and detection; training counts optimizer steps.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.folded import build_noise_predictor
from baselines.gaussian import (
    Scheduler,
    clean_predictor,
    draw_steps,
    make_scheduler,
    q_sample,
    reverse_chain,
)
from baselines.simplex import SimplexNoise
from uad.configuration import check_values
from uad.errors import input_error
from uad.inference import Reconstruction
from uad.scores import anomaly_map

NAME = "anoddpm"
STAGES = ("diffusion",)
METHOD = "AnoDDPM"
COARSEST = 8
# Widths of the published network at resolutions 256, 128, ..., 8, and of a small one at 64, ..., 8.
WIDTHS = {"paper": (128, 128, 256, 256, 512, 512), "small": (32, 32, 64, 64)}
ATTENTION_AT = {"paper": 32, "small": 8}
FOLD = {"paper": 1, "small": 2}


def configuration(img_size: int, n_channels: int, size: str) -> dict:
    """Network, process and defaults.

    paper: the published network, whose width belongs to the resolution: other image sizes have fewer or more levels
    above the same ones; small: a small network on images folded by 2 (see FoldedUNet), a bank of noise, and a process
    of 200 steps with the noise levels of every fifth published one. Raises InputError for an image size that cannot be
    halved down to about 8 pixels.
    """
    fold = FOLD[size]
    levels = max(1, 1 + round(math.log2(img_size / fold / COARSEST)))
    multiple = fold * 2 ** (levels - 1)
    if img_size % multiple:
        raise input_error(
            "--img_size", f"{img_size}", f"a multiple of {multiple}: it is halved so often", "choose another"
        )
    widths = WIDTHS[size]
    channels = [widths[0]] * max(0, levels - len(widths)) + list(widths[-levels:])
    attention = [img_size / fold / 2**level <= ATTENTION_AT[size] for level in range(levels)]
    paper = size == "paper"
    return {
        "img_size": img_size,
        "n_channels": n_channels,
        "network": {
            "fold": fold,
            "channels": channels,
            "attention_levels": attention,
            "num_head_channels": [width // 2 if at else 0 for width, at in zip(channels, attention, strict=True)],
            "num_res_blocks": 2 if paper else 1,
            "norm_num_groups": 32 if paper else 8,
            "resblock_updown": True,
        },
        "process": {
            "steps": 1000 if paper else 200,
            "beta_start": 1e-4 if paper else 5e-4,
            "beta_end": 2e-2 if paper else 1e-1,
            "trained_steps": 800 if paper else 160,
        },
        "noise": {
            "dimensions": 3,
            "octaves": 6,
            "persistence": 0.8,
            "feature_size": 64.0,
            "standardise": False,
            "source": "online" if paper else "bank",
        },
        "training": {
            "diffusion": {
                "lr": 1e-4 if paper else 5e-4,
                "batch_size": 1 if paper else 8,
                "train_steps": 200_000 if paper else 4000,
                "ema_beta": 0.9999 if paper else 0.99,
                "clip_norm": 1.0,
                "weight_decay": 0.0,
            }
        },
        "detection": {"noise_level": 250 if paper else 50},
    }


def scheduler_of(config: dict) -> Scheduler:
    """The noise schedule: linear betas."""
    process = config["process"]
    return make_scheduler("linear_beta", process["steps"], process["beta_start"], process["beta_end"])


def loss(
    stage: str,
    config: dict,
    modules: dict[str, nn.Module],
    network: nn.Module,
    batch: dict,
    generators: Sequence[torch.Generator],
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean squared error of the predicted simplex noise at uniform time steps below `trained_steps`."""
    images = 2 * batch["image"] - 1
    t = draw_steps(generators, config["process"]["trained_steps"])
    noise = SimplexNoise(**config["noise"]).draw(generators, *images.shape[1:3])
    predicted = network(q_sample(scheduler_of(config), images, noise, t), t)
    error = F.mse_loss(predicted.float(), noise)
    return error, {"mse": error}


build = build_noise_predictor


class Detector:
    """The detector. Its one option is noise_level: L, how many steps an image is noised and denoised by.

    Raises InputError where L is beyond the steps that the network was trained on.
    """

    method = METHOD
    needs_healthy = False

    def __init__(
        self, config: dict, modules: dict[str, nn.Module], options: dict, amp: str = "off", score: str = "paper"
    ):
        self.level, trained = options["noise_level"], config["process"]["trained_steps"]
        check_values([("--noise_level", self.level, f"1..{trained}, the trained steps", 1 <= self.level <= trained)])
        self.score = score
        self.scheduler, self.noise = scheduler_of(config), SimplexNoise(**config["noise"])
        self.predict = clean_predictor(self.scheduler, modules["diffusion"], amp)

    @torch.inference_mode()
    def reconstruct(self, images: Tensor, generators: Sequence[torch.Generator]) -> Reconstruction:
        """Reconstruction of images (N, C, S, S) in [0, 1] after L network evaluations, and its anomaly map."""

        def noise(t: int) -> Tensor:
            return self.noise.draw(generators, *images.shape[1:3])

        start = self.level - 1
        noised = q_sample(self.scheduler, 2 * images - 1, noise(start), start)
        clean = reverse_chain(self.scheduler, noised, start, self.predict, noise, variance="fixed_large")
        reconstruction = ((clean + 1) / 2).clamp(0, 1)
        return Reconstruction(
            image=reconstruction,
            anomaly_map=anomaly_map(images, reconstruction, self.score),
            numbers={"network_evaluations": torch.full((len(images),), float(self.level))},
        )
