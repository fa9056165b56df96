"""DISYRE: a network restores images with synthetic lesions, told how strong these are; what it changes is abnormal.

Naval Marimont et al., "DISYRE: diffusion-inspired synthetic restoration for unsupervised anomaly detection", ISBI 2024.
As in a diffusion model there are time steps, but no noise: a step t stands for lesions of the strength
a_t = sqrt(abar_t) of a schedule, so that t = 0 is the strongest and the last step a clean image. In detection the
strength is unknown, and the changes are averaged over several assumed ones. `multi_step` restores in steps from strong
to weak instead (cold diffusion, Bansal et al., NeurIPS 2023).

Departures: MONAI's network on whole images, where the original slides windows over them; its samplers assign strengths
to steps in the opposite order to its training, here one function does both. What lesions are like: see corruptions.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.corruptions import corrupted, drawn_corruptions, intensity_levels
from baselines.folded import FoldedUNet, check_size
from baselines.gaussian import make_scheduler, run_network
from uad.configuration import check_values
from uad.inference import Reconstruction
from uad.scores import anomaly_map

NAME = "disyre"
STAGES = ("restoration",)
# Healthy images that tissue is taken from, kept with every checkpoint as bytes.
DONORS = 64


def configuration(img_size: int, n_channels: int, size: str) -> dict:
    """Network, process and defaults.

    paper: the published network and training; small: a small network without attention but in its middle, on images
    folded by 2 (see FoldedUNet). Raises InputError where the network cannot halve the image size.
    """
    network = {
        "fold": 1,
        "channels": [32, 64, 96, 128, 256, 256],
        "attention_levels": [False, False, False, False, True, False],
        "num_res_blocks": 2,
        "norm_num_groups": 32,
    }
    training = {"lr": 1e-4, "batch_size": 96, "train_steps": 100_000, "ema_beta": 0.0, "weight_decay": 1e-6}
    if size == "small":
        network |= {
            "fold": 2,
            "channels": [32, 64, 96, 128],
            "attention_levels": [False] * 4,
            "num_res_blocks": 1,
            "norm_num_groups": 8,
        }
        training |= {"lr": 2e-4, "batch_size": 16, "train_steps": 2000, "ema_beta": 0.99, "weight_decay": 0.0}
    check_size(img_size, network["fold"], network["channels"])
    return {
        "img_size": img_size,
        "n_channels": n_channels,
        "network": network | {"num_head_channels": 32},
        "process": {"steps": 100, "beta_start": 0.001, "beta_end": 0.2},
        "training": {"restoration": training | {"clip_norm": 1.0}},
        "detection": {"assumed_strengths": 4, "multi_step": False},
    }


def build(config: dict) -> dict[str, nn.Module]:
    """The network that restores, (N, C, S, S) and steps (N,) -> (N, C, S, S)."""
    return {"restoration": FoldedUNet(n_channels=config["n_channels"], **config["network"])}


class Strengths:
    """The strength in (0, 1) that a time step stands for, and the step of a strength: the one place that says which.

    table: a_t = sqrt(abar_t), descending, float32 on the CPU.
    """

    def __init__(self, config: dict):
        process = config["process"]
        schedule = make_scheduler("linear_beta", process["steps"], process["beta_start"], process["beta_end"])
        self.table = schedule.alphas_cumprod.sqrt()

    def steps_of(self, strengths: Tensor) -> Tensor:
        """The steps (N,) int64 whose strengths are nearest to those given (N,)."""
        return (self.table.to(strengths.device) - strengths[:, None]).abs().argmin(1)

    def assumed(self, count: int) -> list[int]:
        """So many evenly spaced steps, from the strongest lesions to the clean image, which is the last step."""
        return [round(len(self.table) * k / count) - 1 for k in range(1, count + 1)]


@torch.no_grad()
def calibrate(
    stage: str, config: dict, modules: dict[str, nn.Module], images: Iterator[Tensor], device: torch.device
) -> dict:
    """Before the training: `donors`, up to DONORS images as bytes (M, C, S, S), and their `levels`, see corruptions."""
    kept: list[Tensor] = []
    for batch in images:
        kept += batch[: DONORS - len(kept)].cpu()
        if len(kept) == DONORS:
            break
    donors = torch.stack(kept)
    return {"donors": (255 * donors).round().byte(), "levels": intensity_levels(donors)}


def loss(
    stage: str,
    config: dict,
    modules: dict[str, nn.Module],
    network: nn.Module,
    batch: dict,
    generators: Sequence[torch.Generator],
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean squared error of the images restored, told the strengths of their lesions; `corruption`, logged beside, is
    that of the images with lesions."""
    images = batch["image"]
    # Their seeds are known to the host, which would have to wait for what it has a device draw.
    seeds = [generator.initial_seed() for generator in generators]
    drawn = drawn_corruptions(seeds, config["n_channels"], len(config["donors"]))
    changed, strengths = corrupted(images, config["donors"], config["levels"], drawn)
    restored = network(changed, Strengths(config).steps_of(strengths))
    error = F.mse_loss(restored.float(), images)
    return error, {"mse": error, "corruption": F.mse_loss(changed, images)}


class Detector:
    """The detector. Options:

    assumed_strengths: how many are assumed, each an evaluation; multi_step: each restoration is the next one's image,
    with lesions of the next strength put back, in place of restoring the image itself every time.

    score: `paper` is the method's own map, |image - restored| averaged over channels and evaluations (multi_step: added
    up over evaluations), times the share of the image that is foreground (above 0 in any channel), and 0 outside of it;
    the others are those of uad.scores. Raises InputError for options out of range.
    """

    needs_healthy = False

    def __init__(
        self, config: dict, modules: dict[str, nn.Module], options: dict, amp: str = "off", score: str = "paper"
    ):
        options = config["detection"] | options
        count, steps = options["assumed_strengths"], config["process"]["steps"]
        check_values([("--assumed_strengths", count, f"1..{steps}", 1 <= count <= steps)])
        self.network, self.amp, self.score = modules["restoration"].eval(), amp, score
        self.multi_step, self.strengths = options["multi_step"], Strengths(config)
        self.steps = self.strengths.assumed(count)

    @property
    def method(self) -> str:
        """The name for tables."""
        return "DISYRE (multi-step)" if self.multi_step else "DISYRE"

    @torch.inference_mode()
    def reconstruct(self, images: Tensor, generators: Sequence[torch.Generator]) -> Reconstruction:
        """The image restored, averaged over assumed strengths or in steps, and its map; nothing is random."""
        restored, change = self.in_steps(images) if self.multi_step else self.at_once(images)
        restored = restored.clamp(0, 1)
        if self.score == "paper":
            foreground = (images > 0).any(1)
            map_ = change.mean(1) * foreground * foreground.float().mean((1, 2), keepdim=True)
        else:
            map_ = anomaly_map(images, restored, self.score)
        return Reconstruction(
            image=restored,
            anomaly_map=map_,
            numbers={"network_evaluations": torch.full((len(images),), float(len(self.steps)))},
        )

    def at_once(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean over assumed strengths of the restored images, and of the absolute changes, both (N, C, S, S)."""
        restored = [run_network(self.network, images, t, self.amp) for t in self.steps]
        return torch.stack(restored).mean(0), torch.stack([(images - each).abs() for each in restored]).mean(0)

    def in_steps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The image after all steps, and the absolute changes of all of them added up, both (N, C, S, S)."""
        current, total = images, torch.zeros_like(images)
        weaker = [*self.strengths.table[self.steps[1:]].tolist(), 0.0]
        for t, after in zip(self.steps, weaker, strict=True):
            restored = run_network(self.network, current, t, self.amp)
            total += (current - restored).abs()
            current = weakened(current, restored, float(self.strengths.table[t]), after)
        return current, total


def weakened(current: Tensor, restored: Tensor, before: float, after: float) -> Tensor:
    """An image whose lesions are of strength `after`, by one with strength `before` and its restoration: the step of
    cold diffusion, restored + (after / before) (current - restored), clipped to [0, 1]."""
    return (restored + after / before * (current - restored)).clamp(0, 1)
