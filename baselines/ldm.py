"""Latent diffusion (LDM): a VQ-VAE, a diffusion model on its quantised latents, and inpainting of unlikely latents.

Pinaya et al., "Fast unsupervised brain anomaly detection and segmentation with diffusion models", MICCAI 2022, on
MONAI's networks. Two variants: unmasked, the latents are noised by L steps and denoised as a whole; masked, only those
positions are generated anew whose Kullback-Leibler divergence between the true and the predicted reverse step is above
a percentile of healthy images, and the residual counts there alone. `--size paper`: at 256 x 256 the released sizes of
the networks, at batch size 24 about 100 and 200 epochs of 6,000 images. Latents are about 32 x 32 for any image size.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from monai.networks.nets import VQVAE, DiffusionModelUNet
from torch import Tensor, nn

from baselines.gaussian import (
    Scheduler,
    draw_steps,
    make_scheduler,
    per_image_noise,
    predicted_clean,
    q_sample,
    reverse_chain,
    run_network,
)
from baselines.inpainting import inpaint, inpainting_evaluations
from uad.configuration import check_values
from uad.errors import input_error
from uad.inference import Reconstruction
from uad.precision import autocast
from uad.randomness import keyed_generator
from uad.scores import anomaly_map

NAME = "ldm"
STAGES = ("vqvae", "diffusion")
LATENT_SIZE = 32
CALIBRATION_IMAGES = 1000
MASK_SCOPES = ("position", "global")
RESIDUALS = ("input", "autoencoder")
DETECTION = {
    "masked": False,
    "noise_level": 300,
    "kl_range": [400, 600],
    "kl_stride": 10,
    "mask_percentile": 97.5,
    "mask_scope": "position",
    "resamplings": 1,
    "residual_against": "input",
}


class LatentAutoencoder(VQVAE):
    """MONAI's VQ-VAE, with the codebook search and its running averages in float32 under any autocast.

    A vector's running count starts at 1, where MONAI's starts at 0: a vector that the first batch does not use would be
    its sum divided by almost nothing, so far away that nothing ever uses it.
    """

    def __init__(self, **shape):
        super().__init__(**shape)
        self.quantizer.quantizer.ema_cluster_size.fill_(1)

    def quantize(self, encodings: Tensor) -> tuple[Tensor, Tensor]:
        """Encodings (N, D, h, w) -> nearest codebook vectors of the same shape, and the commitment loss."""
        with torch.autocast(encodings.device.type, enabled=False):
            return super().quantize(encodings.float())


def configuration(img_size: int, n_channels: int, size: str) -> dict:
    """Plain values of networks, process, training and detection.

    paper: the released sizes; small: small networks, and a process of 200 steps whose noise levels are those of the
    released one at every fifth step. Raises InputError if the image size does not fit the networks.
    """
    downsamplings = max(1, round(math.log2(img_size / LATENT_SIZE)))
    multiple = 2 ** (downsamplings + 2)
    if img_size % multiple:
        expected = f"a multiple of {multiple}: {downsamplings} halvings by the VQ-VAE, 2 by the U-Net"
        raise input_error("--img_size", str(img_size), expected, "choose another size")
    process = {"schedule": "linear_beta", "steps": 1000, "beta_start": 0.0015, "beta_end": 0.0195}
    detection = dict(DETECTION)
    vqvae = {"width": 96, "res_layers": 3, "embeddings": 256, "embedding_dim": 32, "decay": 0.5}
    unet = {"channels": [128, 256, 512], "res_blocks": 2, "head_channels": [0, 256, 512]}
    rates = {"lr": 1e-4, "batch_size": 24, "clip_norm": 0.0, "weight_decay": 0.0, "ema_beta": 0.0}
    steps = (25_000, 50_000)
    if size == "small":
        vqvae |= {"width": 32, "res_layers": 1, "embedding_dim": 8}
        unet = {"channels": [32, 64, 128], "res_blocks": 1, "head_channels": [0, 32, 64]}
        rates |= {"lr": 5e-4, "batch_size": 8, "clip_norm": 1.0, "ema_beta": 0.995}
        steps = (3_000, 6_000)
        process |= {"steps": 200, "beta_start": 0.0075, "beta_end": 0.0975}
        detection |= {"noise_level": 60, "kl_range": [80, 120], "kl_stride": 4}
    return {
        "img_size": img_size,
        "n_channels": n_channels,
        "vqvae": vqvae | {"downsamplings": downsamplings},
        "unet": unet | {"attention": [False, True, True]},
        "process": process,
        "training": {stage: rates | {"train_steps": count} for stage, count in zip(STAGES, steps, strict=True)},
        "detection": detection,
    }


def build(config: dict) -> dict[str, nn.Module]:
    """The VQ-VAE and the U-Net of its latents."""
    shape, unet = config["vqvae"], config["unet"]
    widths = [shape["width"]] * (shape["downsamplings"] - 1) + [2 * shape["width"]]
    vqvae = LatentAutoencoder(
        spatial_dims=2,
        in_channels=config["n_channels"],
        out_channels=config["n_channels"],
        channels=widths,
        num_res_layers=shape["res_layers"],
        num_res_channels=widths,
        downsample_parameters=[(2, 4, 1, 1)] * len(widths),
        upsample_parameters=[(2, 4, 1, 1, 0)] * len(widths),
        num_embeddings=shape["embeddings"],
        embedding_dim=shape["embedding_dim"],
        decay=shape["decay"],
    )
    diffusion = DiffusionModelUNet(
        spatial_dims=2,
        in_channels=shape["embedding_dim"],
        out_channels=shape["embedding_dim"],
        channels=unet["channels"],
        attention_levels=unet["attention"],
        num_res_blocks=unet["res_blocks"],
        num_head_channels=unet["head_channels"],
        use_flash_attention=True,
    )
    return {"vqvae": vqvae, "diffusion": diffusion}


def loss(
    stage: str,
    config: dict,
    modules: dict[str, nn.Module],
    network: nn.Module,
    batch: dict,
    generators: Sequence[torch.Generator],
) -> tuple[Tensor, dict[str, Tensor]]:
    """vqvae: L1 of the reconstruction plus the commitment loss; diffusion: squared error of the predicted noise."""
    images = batch["image"]
    if stage == "vqvae":
        reconstruction, commitment = network(images)
        l1 = (reconstruction.float() - images).abs().mean()
        total = l1 + commitment
        return total, {"loss": total, "l1": l1, "perplexity": modules["vqvae"].quantizer.perplexity}
    scheduler = make_scheduler(**config["process"])
    with torch.no_grad():
        clean = encode(modules["vqvae"], images) * config["scale_factor"]
    t = draw_steps(generators, config["process"]["steps"])
    noise = per_image_noise(generators, clean.shape[1:])
    error = (network(q_sample(scheduler, clean, noise, t), t).float() - noise).square().mean()
    return error, {"loss": error}


def encode(vqvae: LatentAutoencoder, images: Tensor) -> Tensor:
    """Quantised latents (N, D, h, w), float32, of images in [0, 1].

    The network has to be in evaluation mode: in training mode every call would move the codebook.
    """
    if vqvae.training:
        raise ValueError("the VQ-VAE is in training mode; its codebook would change")
    return vqvae.encode_stage_2_inputs(images)


@torch.no_grad()
def calibrate(
    stage: str, config: dict, modules: dict[str, nn.Module], images: Iterator[Tensor], device: torch.device
) -> dict:
    """Before the diffusion model is trained: `scale_factor` = 1 / standard deviation of the latents of up to 1,000
    images, from batches (N, C, S, S)."""
    if stage == "vqvae":
        return {}
    seen, count, total, squares = 0, 0, 0.0, 0.0
    for batch in images:
        latents = encode(modules["vqvae"], batch[: CALIBRATION_IMAGES - seen].to(device)).double()
        seen, count = seen + len(latents), count + latents.numel()
        total, squares = total + float(latents.sum()), squares + float(latents.square().sum())
        if seen >= CALIBRATION_IMAGES:
            break
    return {"scale_factor": (squares / count - (total / count) ** 2) ** -0.5}


def kl_map(
    scheduler: Scheduler, clean: Tensor, predict_noise, generators: Sequence[torch.Generator], steps: Sequence[int]
) -> Tensor:
    """How badly the model foresees the reverse step, (N, h, w): KL(q(z_{t-1} | z_t, z_0) || p(z_{t-1} | z_t)), averaged
    over the time steps (each >= 1) and the latent channels, with fresh noise for every step.

    Both are Gaussians of the posterior's variance s^2, whose means differ in the noise, so that KL = (beta_t^2 /
    (2 s^2 alpha_t (1 - abar_t))) (predicted - noise)^2 = beta_t / (2 alpha_t (1 - abar_{t-1})) (predicted - noise)^2.
    """
    total = torch.zeros_like(clean[:, 0])
    for t in steps:
        noise = per_image_noise(generators, clean.shape[1:])
        error = (predict_noise(q_sample(scheduler, clean, noise, t), t) - noise).square().mean(1)
        beta, before = scheduler.beta[t], scheduler.abar[t - 1]
        total += beta / (2 * (1 - beta) * (1 - before)) * error
    return total / len(steps)


class Detector:
    """The detector. Options (defaults in DETECTION):

    masked: inpaint the unlikely positions only; noise_level: L, how many steps the latents are noised by; kl_range,
    kl_stride: first and last time step of the KL map and the distance between those used; mask_percentile: of the KL of
    healthy images, above which a position is unlikely, for each `position` of the latents or one for all (mask_scope
    global); resamplings: how often each inpainting step is repeated (1 = once through); residual_against: the input, or
    the autoencoder's own reconstruction of it.

    The masked variant needs `take_threshold`, or its outcome of an earlier run as the option `kl_threshold`.
    Raises InputError for options out of range.
    """

    def __init__(self, config: dict, modules: dict[str, nn.Module], options: dict, amp: str = "off", score="paper"):
        self.options = config["detection"] | options
        check_values(_checks(self.options, config["process"]["steps"]))
        self.vqvae, self.network = modules["vqvae"].eval(), modules["diffusion"].eval()
        self.scheduler = make_scheduler(**config["process"])
        self.scale, self.amp, self.score = config["scale_factor"], amp, score
        first, last = self.options["kl_range"]
        self.kl_steps = range(first, last + 1, self.options["kl_stride"])
        self.kl_threshold = self.options.get("kl_threshold")

    @property
    def method(self) -> str:
        """The name for tables."""
        return "LDM (masked)" if self.options["masked"] else "LDM"

    @property
    def needs_healthy(self) -> bool:
        """Whether the threshold of the KL map is still to come from healthy images."""
        return self.options["masked"] and self.kl_threshold is None

    @torch.inference_mode()
    def healthy_values(self, images: Tensor, numbers: Sequence[int]) -> np.ndarray:
        """The KL map (N, h, w) of healthy images (N, C, S, S), whose noise depends on their numbers alone."""
        generators = [keyed_generator("healthy", NAME, i, device=images.device) for i in numbers]
        return self._kl(self._encode(images), generators).cpu().numpy()

    def take_threshold(self, values: np.ndarray) -> dict:
        """The KL above which a position is unlikely, from the maps (M, h, w) of all healthy images, kept and returned.

        {"kl_threshold": a list of rows, or one number for mask_scope `global`}.
        """
        axis = 0 if self.options["mask_scope"] == "position" else None
        threshold = np.percentile(values.astype(np.float64), self.options["mask_percentile"], axis=axis)
        self.kl_threshold = threshold.tolist()
        return {"kl_threshold": self.kl_threshold}

    @torch.inference_mode()
    def reconstruct(self, images: Tensor, generators: Sequence[torch.Generator]) -> Reconstruction:
        """Reconstruction and anomaly map, with the autoencoder's own reconstruction and, in the masked variant, the KL
        map and the latent mask (1 = generated anew), both (N, h, w), as extras."""
        clean = self._encode(images)
        own = self._decode(clean)
        against = own if self.options["residual_against"] == "autoencoder" else images
        start = self.options["noise_level"] - 1
        if not self.options["masked"]:
            noised = self._noised(clean, start, generators)
            latents = reverse_chain(
                self.scheduler, noised, start, self._clean, lambda _: per_image_noise(generators, clean.shape[1:])
            )
            image = self._decode(latents)
            return Reconstruction(
                image=image,
                anomaly_map=anomaly_map(against, image, self.score),
                extras={"autoencoder": own},
                numbers={"network_evaluations": torch.full((len(images),), start + 1)},
            )
        kl = self._kl(clean, generators)
        mask = kl > self._threshold(kl.device)
        latents = inpaint(
            self.scheduler,
            self._noised(clean, start, generators),
            clean,
            mask[:, None],
            start,
            self._clean,
            generators,
            self.options["resamplings"],
        )
        image = self._decode(latents)
        shown = F.interpolate(mask[:, None].float(), images.shape[-2:], mode="nearest")[:, 0]
        evaluations = len(self.kl_steps) + inpainting_evaluations(start, self.options["resamplings"])
        return Reconstruction(
            image=image,
            anomaly_map=anomaly_map(against, image, self.score) * shown,
            extras={"autoencoder": own, "kl_map": kl, "latent_mask": mask.to(torch.uint8)},
            numbers={
                "network_evaluations": torch.full((len(images),), evaluations),
                "mask_share": mask.float().mean((1, 2)),
            },
        )

    def _encode(self, images: Tensor) -> Tensor:
        with autocast(self.amp, images.device):
            return encode(self.vqvae, images) * self.scale

    def _decode(self, latents: Tensor) -> Tensor:
        """The image of the codebook vectors next to the latents."""
        with autocast(self.amp, latents.device):
            return self.vqvae.decode_stage_2_outputs(latents / self.scale).float().clamp(0, 1)

    def _noise(self, z_t: Tensor, t: int) -> Tensor:
        return run_network(self.network, z_t, t, self.amp)

    def _clean(self, z_t: Tensor, t: int) -> Tensor:
        return predicted_clean(self.scheduler, z_t, self._noise(z_t, t), t)

    def _noised(self, clean: Tensor, t: int, generators: Sequence[torch.Generator]) -> Tensor:
        return q_sample(self.scheduler, clean, per_image_noise(generators, clean.shape[1:]), t)

    def _kl(self, clean: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        return kl_map(self.scheduler, clean, self._noise, generators, self.kl_steps)

    def _threshold(self, device: torch.device) -> Tensor:
        if self.needs_healthy:
            raise input_error(
                "--masked", "no threshold of the KL map", "one from healthy images", "give a folder of healthy images"
            )
        return torch.tensor(self.kl_threshold, device=device)


def _checks(options: dict, steps: int) -> list[tuple[str, object, str, bool]]:
    """What check_values needs to know of the detection options."""
    first, last = options["kl_range"]
    level, percentile = options["noise_level"], options["mask_percentile"]
    return [
        ("--noise_level", level, f"1..{steps}", 1 <= level <= steps),
        ("--kl_range", [first, last], f"two steps in 1..{steps - 1}, ascending", 1 <= first <= last < steps),
        ("--kl_stride", options["kl_stride"], "at least 1", options["kl_stride"] >= 1),
        ("--mask_percentile", percentile, "0..100", 0 <= percentile <= 100),
        ("--mask_scope", options["mask_scope"], " or ".join(MASK_SCOPES), options["mask_scope"] in MASK_SCOPES),
        ("--resamplings", options["resamplings"], "at least 1", options["resamplings"] >= 1),
        (
            "--residual_against",
            options["residual_against"],
            " or ".join(RESIDUALS),
            options["residual_against"] in RESIDUALS,
        ),
    ]
