"""FAE: an autoencoder of the features of healthy images; features that it restores in another structure are abnormal.

Meissen et al., "Unsupervised anomaly localization with structural feature-autoencoders", BrainLes workshop at MICCAI
2022. A frozen network trained on ImageNet describes an image at a quarter of its resolution; an autoencoder is trained
to restore these features, by their structural similarity (SSIM), and in detection what is dissimilar is abnormal.

The constants of SSIM are those for values in [0, 1], as published, though features are larger. Batch normalisation
takes its statistics over the images that a process has at a time, so that a training, unlike those of the other
methods, depends on --microbatch and on the number of processes; detection does not.

Departures: images are shown with ImageNet's mean and standard deviation, where the original equalises their histograms;
every picture of an image (see backbones) is restored by itself, and their maps are averaged; the map is 0 where the
image is; an image as a whole is scored by its map, as by every method here. The published backbone is ResNet 18;
AlexNet, also offered, has its third layer at a sixteenth of the resolution in place of an eighth.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.backbones import BACKBONES, FrozenFeatures, picture_count, pictures
from uad.configuration import check_values
from uad.inference import Reconstruction
from uad.layers import KeyedDropout, image_keys
from uad.precision import autocast
from uad.scores import direct_map

NAME = "fae"
STAGES = ("autoencoder",)
METHOD = "FAE"
# So many layers, the finest there are, describe an image.
LAYERS = 3
# Features have a quarter of the image's resolution, and the autoencoder halves it four times.
MULTIPLE = 4 * 2**4
# Of SSIM: the window reaches so far, is a Gaussian of this deviation, and (0.01)^2 and (0.03)^2.
RADIUS, SIGMA, C1, C2 = 2, 1.5, 1e-4, 9e-4


def configuration(img_size: int, n_channels: int, size: str) -> dict:
    """Backbone, network and defaults.

    paper: the published training; small: the same network, trained for fewer steps. Raises InputError where the network
    cannot halve the features.
    """
    check_values([("--img_size", img_size, f"a multiple of {MULTIPLE}", img_size % MULTIPLE == 0)])
    training = {"lr": 2e-4, "batch_size": 32, "train_steps": 10_000}
    if size == "small":
        training = {"lr": 1e-3, "batch_size": 16, "train_steps": 400}
    return {
        "img_size": img_size,
        "n_channels": n_channels,
        "backbone": "resnet18",
        "network": {"widths": [100, 150, 200, 300], "dropout": 0.1},
        "training": {"autoencoder": training | {"ema_beta": 0.0, "clip_norm": 0.0, "weight_decay": 0.0}},
        "detection": {},
    }


def build(config: dict) -> dict[str, nn.Module]:
    """The autoencoder with its backbone, whose weights `calibrate` or a checkpoint brings."""
    return {"autoencoder": FeatureAutoencoder(config["backbone"], **config["network"])}


class FeatureAutoencoder(nn.Module):
    """Features of a frozen backbone, and the autoencoder that restores them.

    widths: channels after each halving of the resolution; dropout: the rate at which whole feature maps are dropped.
    """

    def __init__(self, backbone: str, widths: Sequence[int], dropout: float):
        super().__init__()
        self.features = FrozenFeatures(backbone, list(BACKBONES[backbone].strides)[:LAYERS])
        count, innermost, described = len(widths), widths[-1], sum(self.features.widths)
        down, up = pairwise([described, *widths]), pairwise([*reversed(widths), described])
        kind = {"stride": 2, "padding": 2, "bias": False}
        self.encoder = nn.ModuleList(
            Block(nn.Conv2d(before, after, 5, **kind), dropout, number) for number, (before, after) in enumerate(down)
        )
        self.innermost = nn.Conv2d(innermost, innermost, 5, padding=2)
        self.decoder = nn.ModuleList(
            Block(nn.ConvTranspose2d(before, after, 6, **kind), dropout, count + number)
            for number, (before, after) in enumerate(up)
        )
        self.last = nn.Conv2d(described, described, 1)

    def describe(self, images: Tensor) -> Tensor:
        """The features (N * P, W, S / 4, S / 4), float32, of the pictures of images (N, C, S, S)."""
        found = [each.float() for each in self.features(pictures(images))]
        grid = found[0].shape[-2:]
        return torch.cat([F.interpolate(each, grid, mode="bilinear", align_corners=True) for each in found], 1)

    def forward(self, images: Tensor, keys: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The features of images, see `describe`, and the same as the autoencoder restores them.

        keys: (N * P, 2), those of the pictures for dropout, which training needs; see KeyedDropout.
        """
        features = self.describe(images)
        x = features
        for block in self.encoder:
            x = block(x, keys)
        x = self.innermost(x)
        for block in self.decoder:
            x = block(x, keys)
        return features, self.last(x).float()


class Block(nn.Module):
    """A convolution that halves or doubles the resolution, batch normalisation, LeakyReLU, dropout of feature maps."""

    def __init__(self, convolution: nn.Conv2d | nn.ConvTranspose2d, dropout: float, number: int):
        super().__init__()
        self.convolution = convolution
        self.norm = nn.BatchNorm2d(convolution.out_channels)
        self.dropout = KeyedDropout(dropout, number)

    def forward(self, x: Tensor, keys: Tensor | None) -> Tensor:
        x = F.leaky_relu(self.norm(self.convolution(x)))
        return x * self.dropout(torch.ones_like(x[:, :, :1, :1]), keys)


def ssim(x: Tensor, y: Tensor, radius: int = RADIUS) -> Tensor:
    """Structural similarity at every place of every feature map, (N, C, h, w) twice -> (N, C, h, w), in [-1, 1].

    Wang et al., IEEE TIP 2004: Gaussian window, sigma 1.5, of 2 `radius` + 1 places a side, K1 = 0.01, K2 = 0.03, data
    range 1; beyond the borders lie zeros.
    """
    # In float32, whatever the precision around it: variances are differences of larger numbers.
    with autocast("off", x.device):
        x, y = x.float(), y.float()
        rows, columns = (_window(side, radius, x.device) for side in x.shape[-2:])
        sums = rows @ torch.stack([x, y, x * x, y * y, x * y]) @ columns
        mean_x, mean_y, square_x, square_y, product = sums
        var_x, var_y, covariance = square_x - mean_x**2, square_y - mean_y**2, product - mean_x * mean_y
        numerator = (2 * mean_x * mean_y + C1) * (2 * covariance + C2)
        return numerator / ((mean_x**2 + mean_y**2 + C1) * (var_x + var_y + C2))


def _window(side: int, radius: int, device: torch.device) -> Tensor:
    """The matrix (side, side), symmetric, that averages over a Gaussian window along one axis."""
    total = sum(math.exp(-0.5 * (distance / SIGMA) ** 2) for distance in range(-radius, radius + 1))
    places = torch.arange(side, dtype=torch.float32, device=device)
    distances = (places[:, None] - places).abs()
    return torch.exp(-0.5 * (distances / SIGMA) ** 2) * (distances <= radius) / total


def calibrate(
    stage: str, config: dict, modules: dict[str, nn.Module], images: Iterator[Tensor], device: torch.device
) -> dict:
    """Before the training: the backbone takes the weights in the file config["backbone_weights"]."""
    modules[stage].features.load(Path(config["backbone_weights"]))
    return {}


def loss(
    stage: str,
    config: dict,
    modules: dict[str, nn.Module],
    network: nn.Module,
    batch: dict,
    generators: Sequence[torch.Generator],
) -> tuple[Tensor, dict[str, Tensor]]:
    """1 - SSIM of the features and those restored, mean over all; `mse`, logged beside, is their squared error.

    Raises InputError for a single picture of the smallest size, of which batch normalisation has no variance.
    """
    images, count = batch["image"], picture_count(config["n_channels"])
    innermost = len(images) * count * (images.shape[-1] // MULTIPLE) ** 2
    enough = innermost > 1 or not network.training
    check_values([("--batch_size", "a single small image at a time", "two images, for batch normalisation", enough)])
    # Their seeds are known to the host, which would have to wait for what it has a device draw.
    keys = torch.cat([image_keys(generator.initial_seed(), range(count)) for generator in generators])
    features, restored = network(images, keys.to(images.device))
    error = 1 - ssim(features, restored).mean()
    return error, {"dissimilarity": error, "mse": F.mse_loss(restored, features)}


class Detector:
    """The detector, which has no options.

    score: `paper` is the method's own map, 1 - SSIM in [0, 2], averaged over feature maps, and 0 outside of the
    foreground (above 0 in any channel); the others are those of uad.scores for maps that are no differences of images
    (`direct_map`). There is no healthy counterpart: it is black.
    """

    needs_healthy = False

    def __init__(
        self, config: dict, modules: dict[str, nn.Module], options: dict, amp: str = "off", score: str = "paper"
    ):
        self.network, self.amp, self.score = modules["autoencoder"].eval(), amp, score

    @property
    def method(self) -> str:
        """Its name in tables, with that of a backbone of another kind than the published one."""
        return METHOD + self.network.features.backbone.in_tables

    @torch.inference_mode()
    def reconstruct(self, images: Tensor, generators: Sequence[torch.Generator]) -> Reconstruction:
        """The dissimilarities at all places, interpolated to the image; nothing is random."""
        with autocast(self.amp, images.device):
            features, restored = self.network(images)
        dissimilar = (1 - ssim(features, restored)).clamp(0, 2).mean(1).unflatten(0, (len(images), -1))
        map_ = F.interpolate(dissimilar, images.shape[-2:], mode="bilinear", align_corners=True).mean(1)
        return Reconstruction(
            image=torch.zeros_like(images),
            anomaly_map=direct_map(map_ * (images > 0).any(1), self.score),
            numbers={"network_evaluations": torch.full((len(images),), float(picture_count(images.shape[1])))},
        )
