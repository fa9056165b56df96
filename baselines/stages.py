"""What a stage's training needs of its method: the loss, batches to calibrate by, numbers and pictures on the way."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from uad.data.reading.folder import SliceFolder, collate_slices
from uad.distributed import World
from uad.pictures import save_rows
from uad.precision import autocast
from uad.randomness import keyed_generator
from uad.train_options import TrainOptions
from uad.training import Losses

PICTURES = 4


class StageLoss:
    """The one phase of a stage's training step; an image's randomness is keyed by its position in the stream."""

    def __init__(self, method: ModuleType, stage: str, config: dict, modules: dict[str, nn.Module], world: World, seed):
        self.method, self.stage, self.config, self.modules = method, stage, config, modules
        self.network = world.wrap(modules[stage])
        self.seed, self.device = seed, world.device

    def __call__(self, batch: dict, step: int) -> Losses:
        positions = batch["position"].tolist()
        generators = [keyed_generator(self.seed, self.stage, p, device=self.device) for p in positions]
        return self.method.loss(self.stage, self.config, self.modules, self.network, batch, generators)


def shuffled_images(options: TrainOptions, slices: Dataset, world: World) -> Iterator[Tensor]:
    """All images once, in an order that depends on the seed alone, as batches on the device."""
    order = torch.randperm(len(slices), generator=keyed_generator(options.seed, "calibration")).tolist()
    share = world.share_of(options.batch_size)
    loader = DataLoader(Subset(slices, order), share, num_workers=options.workers, collate_fn=collate_slices)
    return (batch["image"].to(world.device) for batch in loader)


def evaluator(options: TrainOptions, loss: StageLoss, slices: SliceFolder):
    """The mean loss over --val_dir, with the same randomness for an image every time."""

    @torch.no_grad()
    def evaluate(_: int, ema: nn.Module) -> dict[str, float]:
        total = 0.0
        for batch in DataLoader(slices, options.batch_size, num_workers=options.workers, collate_fn=collate_slices):
            images = batch["image"].to(loss.device)
            generators = [keyed_generator("evaluation", name, device=loss.device) for name in batch["name"]]
            with autocast(options.amp, loss.device):
                value, _ = loss.method.loss(
                    loss.stage, loss.config, loss.modules, ema, batch | {"image": images}, generators
                )
            total += float(value) * len(images)
        return {"val_loss": total / len(slices)}

    return evaluate


def picture_maker(method: ModuleType, config, modules, slices: Dataset, world: World, amp, folder: Path, channel):
    """Saves a grid: input, reconstruction and anomaly map of some training images, one image channel."""

    def sample(step: int, ema: nn.Module) -> None:
        images = torch.stack([slices[i]["image"] for i in range(min(PICTURES, len(slices)))]).to(world.device)
        networks = modules | {method.STAGES[-1]: ema}
        detector = method.Detector(config, networks, config["detection"], amp)
        if detector.needs_healthy:
            detector.take_threshold(detector.healthy_values(images, range(len(images))))
        generators = [keyed_generator("pictures", i, device=world.device) for i in range(len(images))]
        result = detector.reconstruct(images, generators)
        maps = result.anomaly_map / result.anomaly_map.amax().clamp_min(1e-12)
        columns = [images[:, channel], result.image[:, channel], maps]
        save_rows(folder / "images" / f"{step:07d}.png", columns)

    return sample
