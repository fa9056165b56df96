"""AutoDDPM: find what a coarse reconstruction changes, then mend only that.

Bercea et al., "Mask, stitch, and re-sample: enhancing robustness and generalizability in anomaly detection through
automatic diffusion models", IMLH workshop at ICML 2023. A denoising diffusion model of healthy images

1. reconstructs the image coarsely from a high noise level;
2. masks where the two differ, by the residual times a perceptual map (spatial LPIPS);
3. puts image and reconstruction together and re-samples the masked part from a low noise level, with jumps back as in
   RePaint (Lugmayr et al., CVPR 2022), while the rest is the noised image.

The anomaly map is the difference between image and result, times the perceptual evidence of step 2. Without LPIPS
weights the evidence is the residual alone: the `residual` variant, which is not AutoDDPM and is never called so.

Departures from the released code, which are corrections: one mask per image from the mean over modalities; a threshold
is calibrated on the evidence at the noise level that detection uses; jumps back use the beta of the step that they
undo; the last step, t = 0, is denoised too; images are in [-1, 1], the range to which predictions are clipped.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.folded import build_noise_predictor, check_size
from baselines.gaussian import (
    clean_predictor,
    draw_steps,
    make_scheduler,
    per_image_noise,
    q_sample,
    reverse_chain,
)
from baselines.inpainting import inpaint, inpainting_evaluations
from baselines.perceptual import SQUEEZENET_FILE, LpipsMap
from uad.configuration import check_values
from uad.errors import input_error
from uad.imagenet import found_weights
from uad.inference import Reconstruction
from uad.randomness import keyed_generator
from uad.scores import anomaly_map

NAME = "autoddpm"
STAGES = ("diffusion",)
METHOD = "AutoDDPM"
RELEASED_TRUNK = "SqueezeNet"
RESIDUAL_METHOD = "AutoDDPM (residual variant, no LPIPS)"
PERCENTILE = 0.95
THRESHOLD_SOURCES = ("healthy", "image")
REGIONS = ("image", "foreground")


def configuration(img_size: int, n_channels: int, size: str) -> dict:
    """Network, process and defaults.

    paper: the published network and chain; small: a small network on images folded by 2 (see FoldedUNet), and a
    process of 200 steps whose noise levels are those of the published one at every fifth step. Raises InputError where
    the network cannot halve the image size.
    """
    detection = {
        # Steps t = 200 and t = 50, counted from 0.
        "noise_level": 201,
        "resample_level": 51,
        "resamplings": 5,
        "mask_threshold": "healthy",
        "mask_false_positives": 0.05,
        "percentile_region": "image",
        "lpips_weights": None,
        "lpips_double_scaling": False,
    }
    training = {"lr": 1e-4, "batch_size": 4, "train_steps": 200_000, "ema_beta": 0.0, "clip_norm": 0.0}
    network = {
        "fold": 1,
        "channels": [128, 256, 256],
        "attention_levels": [False, True, True],
        "num_head_channels": [0, 256, 256],
        "num_res_blocks": 1,
        "norm_num_groups": 32,
    }
    process = {"schedule": "linear_beta", "steps": 1000, "beta_start": 1e-4, "beta_end": 2e-2}
    if size == "small":
        network |= {
            "fold": 2,
            "channels": [32, 32, 64, 64],
            "attention_levels": [False, False, False, True],
            "num_head_channels": [0, 0, 0, 32],
            "norm_num_groups": 8,
        }
        process |= {"steps": 200, "beta_start": 5e-4, "beta_end": 1e-1}
        detection |= {"noise_level": 41, "resample_level": 11, "resamplings": 2}
        training |= {"lr": 5e-4, "batch_size": 8, "train_steps": 3000, "ema_beta": 0.99, "clip_norm": 1.0}
    check_size(img_size, network["fold"], network["channels"])
    return {
        "img_size": img_size,
        "n_channels": n_channels,
        "network": network,
        "process": process,
        "training": {"diffusion": training | {"weight_decay": 0.0}},
        "detection": detection,
    }


def loss(
    stage: str,
    config: dict,
    modules: dict[str, nn.Module],
    network: nn.Module,
    batch: dict,
    generators: Sequence[torch.Generator],
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean squared error of the predicted noise at uniform time steps (Ho et al. 2020)."""
    images = 2 * batch["image"] - 1
    scheduler = make_scheduler(**config["process"])
    t = draw_steps(generators, config["process"]["steps"])
    noise = per_image_noise(generators, images.shape[1:])
    predicted = network(q_sample(scheduler, images, noise, t), t)
    error = F.mse_loss(predicted.float(), noise)
    return error, {"mse": error}


build = build_noise_predictor


class Detector:
    """The detector. Options (defaults in `configuration`):

    noise_level, resample_level: noising steps of the coarse reconstruction and of the re-sampling; resamplings: how
    often each re-sampling step is made, with jumps back between; mask_threshold: of the evidence, a number, `image` for
    the 95th percentile of each image's own, or `healthy`: then `take_threshold` sets it so that the share
    `mask_false_positives` of healthy pixels is above; percentile_region: residuals are divided by their 95th percentile
    over the whole `image` or its `foreground` (above 0 in any channel); lpips_weights: the trunk's file, by default
    torchvision's SqueezeNet in torch's cache; where there is none, the residual variant runs; lpips_double_scaling: see
    LpipsMap.

    score: `paper` is the method's own map, |image - result| times evidence, summed over channels; the others are those
    of uad.scores, with the same evidence. Raises InputError for options out of range and unusable weights.
    """

    def __init__(
        self, config: dict, modules: dict[str, nn.Module], options: dict, amp: str = "off", score: str = "paper"
    ):
        self.options = config["detection"] | options
        check_values(_checks(self.options, config["process"]["steps"]))
        network, self.score = modules["diffusion"].eval(), score
        self.scheduler = make_scheduler(**config["process"])
        self.predict = clean_predictor(self.scheduler, network, amp)
        self.threshold = _as_threshold(self.options["mask_threshold"])
        weights = found_weights(self.options["lpips_weights"], SQUEEZENET_FILE)
        self.lpips = None
        if weights:
            device = next(network.parameters()).device
            self.lpips = LpipsMap(weights, self.options["lpips_double_scaling"]).to(device)

    @property
    def method(self) -> str:
        """The name for run.json and tables: it says which variant runs."""
        if self.lpips is None:
            return RESIDUAL_METHOD
        return METHOD if self.lpips.trunk == RELEASED_TRUNK else f"{METHOD} (LPIPS by {self.lpips.trunk})"

    @property
    def needs_healthy(self) -> bool:
        """Whether `take_threshold` has to be called first."""
        return self.threshold == "healthy"

    @torch.inference_mode()
    def healthy_values(self, images: Tensor, numbers: Sequence[int]) -> np.ndarray:
        """The evidence (N, S, S) of healthy images (N, C, S, S), whose noise depends on their numbers alone."""
        generators = [keyed_generator("healthy", NAME, i, device=images.device) for i in numbers]
        return self.evidence(images, self.coarse(images, generators)).cpu().numpy()

    def take_threshold(self, values: np.ndarray) -> dict[str, float]:
        """Set the mask's threshold by the evidence of all healthy images; returns {"mask_threshold": number}."""
        self.threshold = float(np.quantile(values, 1 - self.options["mask_false_positives"]))
        return {"mask_threshold": self.threshold}

    @torch.inference_mode()
    def reconstruct(self, images: Tensor, generators: Sequence[torch.Generator]) -> Reconstruction:
        """The mended image with its map; extras: the coarse reconstruction, the evidence (N, S, S) and the mask
        (N, S, S), 1 where the image was re-sampled."""
        coarse = self.coarse(images, generators)
        evidence = self.evidence(images, coarse)
        mask = self.mask(evidence)
        result = self.resample(images, coarse, mask, generators)
        if self.score == "paper":
            scores = (images - result).abs().sum(1) * evidence
        else:
            scores = anomaly_map(images, result, self.score, evidence)
        last = self.options["resample_level"] - 1
        evaluations = self.options["noise_level"] + inpainting_evaluations(last, self.options["resamplings"])
        return Reconstruction(
            image=result,
            anomaly_map=scores,
            extras={"coarse": coarse, "evidence": evidence, "inpainting_mask": mask.to(torch.uint8)},
            numbers={
                "network_evaluations": torch.full((len(images),), evaluations),
                "mask_share": mask.float().mean((1, 2)),
            },
        )

    def coarse(self, images: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Reconstruction of images (N, C, S, S) in [0, 1] after `noise_level` noising steps, in [0, 1]."""
        start, shape = self.options["noise_level"] - 1, images.shape[1:]
        noised = q_sample(self.scheduler, 2 * images - 1, per_image_noise(generators, shape), start)
        clean = reverse_chain(self.scheduler, noised, start, self.predict, lambda _: per_image_noise(generators, shape))
        return ((clean + 1) / 2).clamp(0, 1)

    def evidence(self, images: Tensor, coarse: Tensor) -> Tensor:
        """min(1, residual / its 95th percentile), averaged over channels, times LPIPS: (N, S, S).

        The percentile is that of an image's residuals in all channels together. Where it is 0, any difference counts 1.
        """
        residual = (images - coarse).abs()
        pairs = zip(residual, images, strict=True)
        highest = np.array([np.quantile(self._counted(r, i).cpu().numpy(), PERCENTILE) for r, i in pairs])
        scale = torch.from_numpy(highest).to(residual).clamp_min(torch.finfo(residual.dtype).tiny)
        relative = (residual / scale[:, None, None, None]).clamp(0, 1).mean(1)
        return relative if self.lpips is None else relative * self.lpips(images, coarse)

    def _counted(self, residual: Tensor, image: Tensor) -> Tensor:
        """The residuals (K,) over which the percentile is taken; the whole image where it has no foreground."""
        foreground = (image > 0).any(0)
        if self.options["percentile_region"] == "image" or not foreground.any():
            return residual.flatten()
        return residual[:, foreground].flatten()

    def mask(self, evidence: Tensor) -> Tensor:
        """Pixels of the evidence (N, S, S) that reach the threshold, with their eight neighbours, (N, S, S) bool.

        To reach it is enough: without LPIPS a twentieth of each image's evidence is 1, and so is the threshold.
        """
        if self.needs_healthy:
            raise input_error(
                "--mask_threshold healthy",
                "no healthy images",
                "healthy images that it is taken from",
                "name a folder of healthy images, or give a number or `image`",
            )
        threshold = self.threshold
        if threshold == "image":
            threshold = torch.quantile(evidence.flatten(1), PERCENTILE, dim=1)[:, None, None]
        above = ((evidence >= threshold) & (evidence > 0)).float()
        return F.max_pool2d(above[:, None], 3, stride=1, padding=1)[:, 0] > 0

    def resample(self, images: Tensor, coarse: Tensor, mask: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Sample anew what is masked, given the rest of the image, from the noised coarse reconstruction.

        (N, C, S, S) in [0, 1]; exactly the image outside the mask.
        """
        start = self.options["resample_level"] - 1
        begun = q_sample(self.scheduler, 2 * coarse - 1, per_image_noise(generators, images.shape[1:]), start)
        inside, repeats = mask[:, None], self.options["resamplings"]
        mended = inpaint(
            self.scheduler, begun, 2 * images - 1, inside, start, self.predict, generators, resamplings=repeats
        )
        return torch.where(inside, (mended + 1) / 2, images)


def _as_threshold(value: str | float) -> str | float:
    """A threshold as a number, or the name of its source; InputError for anything else."""
    if value in THRESHOLD_SOURCES:
        return value
    try:
        return float(value)
    except ValueError:
        expected = f"a number, {' or '.join(THRESHOLD_SOURCES)}"
        raise input_error("--mask_threshold", value, expected, "choose one of these") from None


def _checks(options: dict, steps: int) -> list[tuple[str, object, str, bool]]:
    """What check_values needs to know of the detection options."""
    level, start, repeats = options["noise_level"], options["resample_level"], options["resamplings"]
    share, region = options["mask_false_positives"], options["percentile_region"]
    return [
        ("--noise_level", level, f"1..{steps}", 1 <= level <= steps),
        ("--resample_level", start, f"1..{steps}", 1 <= start <= steps),
        ("--resamplings", repeats, "at least 1", repeats >= 1),
        ("--mask_false_positives", share, "between 0 and 1", 0 < share < 1),
        ("--percentile_region", region, " or ".join(REGIONS), region in REGIONS),
    ]
