"""Stage 2 built without its command: a U-Net with dropout on random codes, in one process or two."""

from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing import spawn
from torch.utils.data import Dataset

from bernoulli_diffusion.objective import DiffusionLoss
from bernoulli_diffusion.process import BernoulliDiffusion
from bernoulli_diffusion.unet import FlipUNet
from uad.checkpoints import CheckpointFiles, load_checkpoint
from uad.data.training.draws import WithDraws
from uad.distributed import World
from uad.training import Phase, Training, TrainOptions

ALONE = World(0, 1, torch.device("cpu"))
BATCH = 4
SHAPE = (4, 8, 8)
FILES = "full{step}.pt", "ema{step}.pt"


class RandomCodes(Dataset):
    """Ten codes with many equal bits; a key is (index, position) as everywhere."""

    def __init__(self):
        self.codes = (torch.rand(10, *SHAPE, generator=torch.Generator().manual_seed(0)) < 0.2).float()

    def __len__(self):
        return len(self.codes)

    def __getitem__(self, key):
        index, position = key
        code = self.codes[index]
        return {"code": code, "shown": code, "name": f"n{index}", "index": index, "position": position}


def small_network(dropout: float = 0.3) -> FlipUNet:
    """A U-Net whose weights are all random, so that dropout acts from the first step on."""
    torch.manual_seed(0)
    network = FlipUNet(4, 8, 16, (1, 2), 1, (4,), dropout=dropout)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    return network


def training(
    folder: Path,
    steps: int,
    world: World = ALONE,
    microbatch: int = 0,
    lr: float = 0.2,
    dropout: float = 0.3,
    amp: str = "off",
    **more,
) -> Training:
    """A run of stage 2 with a log line every two steps and a falling learning rate; more: of Training."""
    network = small_network(dropout)
    loss = DiffusionLoss(world, network, BernoulliDiffusion(), None, 0, 200, SHAPE)
    # Plain momentum: Adam divides rounding noise by itself where the true gradient is zero.
    optimizer = torch.optim.SGD(network.parameters(), lr, momentum=0.9)
    options = TrainOptions(
        steps, BATCH, seed=0, amp=amp, microbatch=microbatch, lr_anneal_steps=20, log_every=2, sample_every=2,
        eval_every=2, workers=0,
    )  # fmt: skip
    described = {"kind": "small", "config": {}, "settings": {}} | more
    return Training(
        world=world,
        options=options,
        log_dir=folder,
        files=CheckpointFiles(folder, *FILES),
        modules={"unet": network},
        averaged="unet",
        phases=[Phase("unet", loss.network, optimizer, loss)],
        dataset=WithDraws(RandomCodes(), loss.draws),
        **described,
    )


def train(folder: Path, steps: int, processes: int = 1, **more) -> dict:
    """The last full checkpoint of a training to `steps`; more: of `training`, for several processes to be pickled."""
    if processes == 1:
        training(folder, steps, **more).run()
    else:
        folder.mkdir()
        spawn(_train_share, (processes, folder, steps, more), processes)
    return load_checkpoint(folder / FILES[0].format(step=steps))


def _train_share(rank: int, processes: int, folder: Path, steps: int, more: dict) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder / 'store'}", rank=rank, world_size=processes)
    training(folder, steps, World(rank, processes, torch.device("cpu")), **more).run()
    dist.destroy_process_group()
