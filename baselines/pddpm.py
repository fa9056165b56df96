"""Patched diffusion (pDDPM): noise one patch, let the network restore it from its clean surroundings, stitch.

Behrendt et al., "Patched diffusion models for unsupervised anomaly detection in brain MRI", MIDL 2023. Patches lie on a
grid and are half the image wide; the network predicts the clean image; the noise is 2-D simplex noise. As in the
released code, detection is one evaluation per patch at a fixed noise level; `iterative` follows the whole reverse chain
instead. Differences: MONAI's U-Net adds its time embedding where the original scales and shifts by it (34.5 million
parameters for 37.5), every image and channel has its own noise, the loss is averaged over the patch (the original's is
the same times the patch's share of the image, which Adam cancels), and nothing is tuned on labelled images.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from baselines.folded import FoldedUNet
from baselines.gaussian import draw_steps, make_scheduler, q_sample, reverse_chain, run_network
from baselines.simplex import SimplexNoise
from uad.configuration import check_values
from uad.errors import input_error
from uad.inference import Reconstruction
from uad.scores import anomaly_map

NAME = "pddpm"
STAGES = ("diffusion",)
PATCHES_A_SIDE = 2


def configuration(img_size: int, n_channels: int, size: str) -> dict:
    """Plain values of network, process, training and detection.

    paper: the published sizes; small: a small network on images folded by 2 (see FoldedUNet), and a bank of noise.
    Raises InputError if the image size does not fit patches and network.
    """
    network = {"channels": [128, 256, 256], "res_blocks": 3, "head_channels": 64, "groups": 32, "fold": 1}
    noise = {"dimensions": 2, "octaves": 6, "persistence": 0.8, "feature_size": 64.0, "source": "online"}
    training = {"lr": 1e-4, "batch_size": 32, "train_steps": 20_000, "ema_beta": 0.0, "clip_norm": 0.0}
    if size == "small":
        network |= {"channels": [32, 32, 64, 64], "res_blocks": 1, "head_channels": 32, "groups": 8, "fold": 2}
        training |= {"lr": 5e-4, "batch_size": 8, "train_steps": 6_000, "ema_beta": 0.995, "clip_norm": 1.0}
        noise |= {"source": "bank"}
    multiple = max(PATCHES_A_SIDE, network["fold"] * 2 ** (len(network["channels"]) - 1))
    if img_size % multiple:
        raise input_error("--img_size", str(img_size), f"a multiple of {multiple}", "choose another size")
    return {
        "img_size": img_size,
        "n_channels": n_channels,
        "patch": img_size // PATCHES_A_SIDE,
        "network": network,
        "process": {"schedule": "cosine", "steps": 1000},
        "noise": noise,
        "training": {"diffusion": training | {"weight_decay": 0.0}},
        "detection": {"noise_level": 300, "iterative": False},
    }


def build(config: dict) -> dict[str, nn.Module]:
    """The network that predicts the clean image; its only attention is in the middle."""
    shape = config["network"]
    network = FoldedUNet(
        shape["fold"],
        config["n_channels"],
        channels=shape["channels"],
        attention_levels=[False] * len(shape["channels"]),
        num_res_blocks=shape["res_blocks"],
        num_head_channels=shape["head_channels"],
        norm_num_groups=shape["groups"],
        resblock_updown=True,
    )
    return {"diffusion": network}


def box_mask(index: Tensor, size: int, patch: int) -> Tensor:
    """Where grid box `index` (N,) lies, counted along rows: bool (N, 1, size, size), True inside."""
    place = torch.arange(size, device=index.device) // patch
    row, column = index // (size // patch), index % (size // patch)
    inside = (place[None, :, None] == row[:, None, None]) & (place[None, None, :] == column[:, None, None])
    return inside[:, None]


def loss(
    stage: str,
    config: dict,
    modules: dict[str, nn.Module],
    network: nn.Module,
    batch: dict,
    generators: Sequence[torch.Generator],
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean absolute error inside one randomly chosen box per image, noised to a random step."""
    images = 2 * batch["image"] - 1
    size, patch = config["img_size"], config["patch"]
    box = box_mask(draw_steps(generators, (size // patch) ** 2), size, patch)
    t = draw_steps(generators, config["process"]["steps"])
    noise = SimplexNoise(**config["noise"]).draw(generators, config["n_channels"], size)
    noised = q_sample(make_scheduler(**config["process"]), images, noise, t)
    restored = network(torch.where(box, noised, images), t).float()
    error = ((restored - images).abs() * box).sum() / (box.sum() * config["n_channels"])
    return error, {"loss": error}


class Detector:
    """The detector. Options:

    noise_level: how many steps a patch is noised by; iterative: follow the reverse chain from there to the clean patch,
    with simplex noise, in place of one evaluation. Raises InputError for options out of range.
    """

    needs_healthy = False

    def __init__(
        self, config: dict, modules: dict[str, nn.Module], options: dict, amp: str = "off", score: str = "paper"
    ):
        options = config["detection"] | options
        level, steps = options["noise_level"], config["process"]["steps"]
        check_values([("--noise_level", level, f"1..{steps}", 1 <= level <= steps)])
        self.network, self.amp, self.score = modules["diffusion"].eval(), amp, score
        self.start, self.iterative = level - 1, options["iterative"]
        self.size, self.patch, self.channels = config["img_size"], config["patch"], config["n_channels"]
        self.scheduler, self.noise = make_scheduler(**config["process"]), SimplexNoise(**config["noise"])

    @property
    def method(self) -> str:
        """The name for tables."""
        return "pDDPM (iterative)" if self.iterative else "pDDPM"

    @torch.inference_mode()
    def reconstruct(self, images: Tensor, generators: Sequence[torch.Generator]) -> Reconstruction:
        """The stitched patches as reconstruction, and its anomaly map."""
        clean = 2 * images - 1

        def noise(t: int) -> Tensor:
            return self.noise.draw(generators, self.channels, self.size)

        def restored(x_t: Tensor, t: int) -> Tensor:
            return self.restore_boxes(clean, x_t, t)

        noised = q_sample(self.scheduler, clean, noise(self.start), self.start)
        if self.iterative:
            result = reverse_chain(self.scheduler, noised, self.start, restored, noise)
        else:
            result = restored(noised, self.start)
        image = ((result + 1) / 2).clamp(0, 1)
        evaluations = self.boxes * (self.start + 1 if self.iterative else 1)
        return Reconstruction(
            image=image,
            anomaly_map=anomaly_map(images, image, self.score),
            numbers={"network_evaluations": torch.full((len(images),), evaluations)},
        )

    @property
    def boxes(self) -> int:
        """How many boxes the grid has."""
        return (self.size // self.patch) ** 2

    def restore_boxes(self, clean: Tensor, x_t: Tensor, t: int) -> Tensor:
        """Predicted clean images (N, C, S, S), each box from the evaluation in which it alone is noised: taken from
        `x_t`, and the rest from `clean`."""
        result = torch.empty_like(clean)
        for index in range(self.boxes):
            box = box_mask(torch.tensor([index], device=clean.device), self.size, self.patch)
            predicted = run_network(self.network, torch.where(box, x_t, clean), t, self.amp)
            result = torch.where(box, predicted, result)
        return result
