"""PatchCore: a memory of features of healthy patches; what is far from all of them is abnormal.

Roth et al., "Towards total recall in industrial anomaly detection", CVPR 2022. A frozen network trained on ImageNet
describes the surroundings of every eighth pixel; of the descriptions of healthy images a coreset is kept, chosen so
that it lies near to all of them. A patch's score is its distance to the nearest kept ones. Nothing is trained by steps.

Departures: layers are put side by side after a mean over 3 x 3 positions, where the original also averages over
channels; distances are Euclidean, as in the paper, where the released code has their squares; every picture of an image
(see backbones) has a memory of its own, and their maps are averaged; an image as a whole is scored by its map, as by
every method here. The published backbones are ResNets; AlexNet's layers at the same strides are offered beside them.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.backbones import BACKBONES, FrozenFeatures, picture_count, pictures
from uad.configuration import check_values
from uad.inference import Reconstruction
from uad.precision import autocast
from uad.randomness import keyed_generator
from uad.scores import direct_map, gaussian

NAME = "patchcore"
STAGES = ("memory",)
METHOD = "PatchCore"
# Of the layers that describe a patch, the fine one and the coarse one.
STRIDES = (8, 16)
NEIGHBOURHOOD = 3
# Distances are compared after a random projection onto so many numbers, beginning with those to a few random patches.
PROJECTED, BEGINNING = 128, 10
# Distances to the memory are computed for so many patches at a time.
BLOCK = 1024
# Of the published map, 4 pixels at 224, in pixels at 128.
SIGMA_AT_128 = 4 * 128 / 224


def configuration(img_size: int, n_channels: int, size: str) -> dict:
    """Backbone, memory and defaults, the same for every size. Raises InputError for images of less than 16 pixels."""
    check_values([("--img_size", img_size, "at least 16", img_size >= 16)])
    return {
        "img_size": img_size,
        "n_channels": n_channels,
        "backbone": "wide_resnet50_2",
        "memory": {"images": 200, "share": 0.01, "rows": 0},
        # Of these only the batch size means anything: the memory is filled at once.
        "training": {
            "memory": {
                "batch_size": 8,
                "train_steps": 1,
                "lr": 0.0,
                "ema_beta": 0.0,
                "clip_norm": 0.0,
                "weight_decay": 0.0,
            }
        },
        "detection": {"nearest": 1},
    }


def build(config: dict) -> dict[str, nn.Module]:
    """The backbone with its memory, empty before `fit`."""
    return {"memory": PatchMemory(config["backbone"], picture_count(config["n_channels"]), config["memory"]["rows"])}


class PatchMemory(nn.Module):
    """Descriptions of healthy patches, `rows` (P, M, D): M for each of the P pictures that an image is shown as."""

    def __init__(self, backbone: str, count: int, rows: int):
        super().__init__()
        self.features = FrozenFeatures(backbone, BACKBONES[backbone].layers_at(STRIDES))
        self.register_buffer("rows", torch.zeros(count, rows, sum(self.features.widths)))

    def forward(self, images: Tensor, amp: str = "off") -> Tensor:
        """The patches (N, P, s, s, D) of images (N, C, S, S), float32; s = S / 8, up to rounding."""
        with autocast(amp, images.device):
            fine, coarse = self.features(pictures(images))
        fine, coarse = (F.avg_pool2d(each.float(), NEIGHBOURHOOD, 1, NEIGHBOURHOOD // 2) for each in (fine, coarse))
        coarse = F.interpolate(coarse, fine.shape[-2:], mode="bilinear", align_corners=False)
        patches = torch.cat([fine, coarse], 1).movedim(1, -1)
        return patches.unflatten(0, (len(images), -1))

    def distances(self, patches: Tensor, nearest: int, block: int = BLOCK) -> Tensor:
        """Mean Euclidean distances (N, P, s, s) of patches (N, P, s, s, D) to the nearest so many rows of memory."""
        each_picture = [
            torch.cat([_to_nearest(some, rows, nearest) for some in own.flatten(0, 2).split(block)])
            for own, rows in zip(patches.movedim(1, 0), self.rows, strict=True)
        ]
        return torch.stack(each_picture).unflatten(1, (len(patches), *patches.shape[2:4])).movedim(0, 1)


def _to_nearest(patches: Tensor, rows: Tensor, nearest: int) -> Tensor:
    """(K,) from patches (K, D) and rows (M, D). Differences are taken one by one: by products of matrices a patch that
    is a row would not have the distance 0, and roundings would depend on the batch."""
    distances = torch.cdist(patches, rows, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.topk(nearest, largest=False).values.mean(1)


@torch.no_grad()
def fit(
    config: dict, modules: dict[str, nn.Module], images: Iterator[Tensor], device: torch.device, amp: str
) -> tuple[dict, dict[str, nn.Module]]:
    """Fill the memory from batches (N, C, S, S) of healthy images, of which the first config["memory"]["images"] count.

    Returns the configuration with the number of rows, and the networks.
    """
    memory, kept, left = modules["memory"], [], config["memory"]["images"]
    memory.features.load(Path(config["backbone_weights"]))
    for batch in images:
        kept.append(memory(batch[:left].to(device), amp).movedim(1, 0).flatten(1, 3))
        left -= len(batch[:left])
        if left <= 0:
            break
    patches = torch.cat(kept, 1)
    count = max(1, int(config["memory"]["share"] * patches.shape[1]))
    memory.rows = torch.stack([own[coreset(own, count)] for own in patches])
    return config | {"memory": config["memory"] | {"rows": count}}, modules


def coreset(patches: Tensor, count: int) -> Tensor:
    """Which `count` of the patches (K, D) lie near to all of them, (count,) int64: again and again the one farthest
    from those chosen (greedy k-center), by distances after a random projection."""
    generator = keyed_generator(NAME, "coreset")
    projection = torch.randn(patches.shape[1], PROJECTED, generator=generator) / PROJECTED**0.5
    projected = patches @ projection.to(patches)
    beginning = torch.randperm(len(patches), generator=generator)[:BEGINNING].to(patches.device)
    farness = torch.cdist(projected, projected[beginning]).mean(1)
    chosen = []
    for _ in range(count):
        # As a tensor of one number: to index by a number alone, the host would wait for the device.
        farthest = farness.argmax(0, keepdim=True)
        farness = torch.minimum(farness, (projected - projected[farthest]).norm(dim=1))
        # Never again, even where all that is left are copies of it.
        farness.index_fill_(0, farthest, -1)
        chosen.append(farthest)
    return torch.cat(chosen)


class Detector:
    """The detector. Its one option is nearest: over how many rows of memory distances are averaged.

    score: `paper` is the method's own map, smoothed as published; the others are those of uad.scores for maps that are
    no differences (`direct_map`). There is no healthy counterpart: it is black. Raises InputError where the memory has
    fewer rows than are asked for.
    """

    needs_healthy = False

    def __init__(
        self, config: dict, modules: dict[str, nn.Module], options: dict, amp: str = "off", score: str = "paper"
    ):
        self.nearest, rows = (config["detection"] | options)["nearest"], config["memory"]["rows"]
        check_values([("--nearest", self.nearest, f"1..{rows}, the rows of the memory", 1 <= self.nearest <= rows)])
        self.memory, self.amp, self.score = modules["memory"].eval(), amp, score

    @property
    def method(self) -> str:
        """Its name in tables, with that of a backbone of another kind than the published ones."""
        return METHOD + self.memory.features.backbone.in_tables

    @torch.inference_mode()
    def reconstruct(self, images: Tensor, generators: Sequence[torch.Generator]) -> Reconstruction:
        """The distances of all patches, interpolated to the image; nothing is random."""
        distances = self.memory.distances(self.memory(images, self.amp), self.nearest)
        map_ = F.interpolate(distances, images.shape[-2:], mode="bilinear", align_corners=False).mean(1)
        own = gaussian(map_[:, None], SIGMA_AT_128)[:, 0] if self.score == "paper" else direct_map(map_, self.score)
        return Reconstruction(
            image=torch.zeros_like(images),
            anomaly_map=own,
            numbers={"network_evaluations": torch.full((len(images),), float(picture_count(images.shape[1])))},
        )
