"""The work that is timed: detection and the steps of both trainings, ours and the released procedure's."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from benchmark import released
from benchmark.measure import gflop
from benchmark.options import RECOMMENDED, Options
from bernoulli_diffusion.method import MaskedBernoulliDiffusion, fast_detector
from bernoulli_diffusion.model import load_diffusion
from bernoulli_diffusion.objective import DiffusionLoss
from bernoulli_diffusion.process import BernoulliDiffusion
from bernoulli_diffusion.unet import FlipUNet
from binary_autoencoder.checkpoint import AutoencoderSource, load_autoencoder
from binary_autoencoder.networks import BinaryAutoEncoder, Discriminator, Upsample
from binary_autoencoder.objective import AutoencoderLosses, LossTerms
from uad.checkpoints import CheckpointFiles
from uad.distributed import World
from uad.optimizers import make_optimizer
from uad.precision import precision_seconds, resolve_amp
from uad.randomness import keyed_generator
from uad.training import Phase, Training, TrainOptions

NEVER = 10**9
LEARNING_RATE = 1e-4
# Small networks, for a quick look whether everything runs.
QUICK_AUTOENCODER = {"img_size": 32, "nf": 8, "ch_mult": (1, 2), "res_blocks": 1, "emb_dim": 16, "codebook_size": 8}
QUICK_UNET = {"num_channels": 32, "channel_mult": (1, 2), "num_res_blocks": 1, "attention_resolutions": (8,)}


@dataclass
class Workbench:
    """The networks and the settings that all variants share.

    steps: denoising steps K of ours; measured_steps: evaluations over which the released detection is timed;
    optimizer: of our trainings; shifts: copies of an image in our detection; cuda_graphs: of our detection and stage 2.
    """

    autoencoder: BinaryAutoEncoder
    network: FlipUNet
    process: BernoulliDiffusion
    device: torch.device
    amp: str
    noise_level: int
    steps: int
    batch: int
    train_batch: int
    measured_steps: int
    optimizer: str
    shifts: int
    cuda_graphs: bool

    @classmethod
    def of(cls, options: Options, device: torch.device, amp: str) -> "Workbench":
        """Trained networks where checkpoints are named, else random ones of the paper's size (tiny for --quick).

        amp: as asked for; on a CPU `auto` is what detection with these networks is faster in.
        """
        if options.ae_load_dir:
            autoencoder = load_autoencoder(AutoencoderSource(options.ae_load_dir)).network
            model = load_diffusion(options.model_path)
            network, process = model.network, model.process
        else:
            torch.manual_seed(0)
            small = QUICK_AUTOENCODER if options.quick else {"img_size": options.img_size}
            autoencoder = BinaryAutoEncoder(**{"n_channels": options.n_channels, "norm_first": True} | small)
            bits, size = autoencoder.code_shape[:2]
            network, process = FlipUNet(bits, size, **(QUICK_UNET if options.quick else {})), BernoulliDiffusion()
            for parameter in network.parameters():  # not the zeros with which training begins
                nn.init.normal_(parameter, std=0.02)
        amp = resolve_amp(amp, device, lambda: precision_seconds((autoencoder, network), training=False))
        names = ("noise_level", "batch_size", "train_batch", "measured_steps", "optimizer", "shifts", "cuda_graphs")
        settings = {name.removesuffix("_size"): getattr(options, name) for name in names}
        settings["steps"] = options.denoise_steps
        return cls(autoencoder.to(device), network.to(device), process, device, amp, **settings)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape of an image (C, S, S)."""
        factor = 2 ** sum(isinstance(block, Upsample) for block in self.autoencoder.generator.blocks)
        size = self.autoencoder.code_shape[1] * factor
        return self.autoencoder.encoder.blocks[0].in_channels, size, size

    def images(self, number: int) -> Tensor:
        """Random images (number, C, S, S)."""
        rows = [torch.rand(self.image_shape, generator=keyed_generator("image", i)) for i in range(number)]
        return torch.stack(rows).to(self.device)

    def generators(self, number: int) -> list[torch.Generator]:
        """One generator per image, the same at every call."""
        return [keyed_generator("detect", i, device=self.device) for i in range(number)]

    def evaluation_gflop(self) -> float:
        """Work of one network evaluation for one code."""
        code = torch.zeros(1, *self.autoencoder.code_shape, device=self.device)
        with torch.inference_mode():
            return gflop(lambda: self.network(code, torch.ones(1, dtype=torch.long, device=self.device)))

    def method(self, amp: str, steps: int, score: str = "paper", shifts: int = 1) -> MaskedBernoulliDiffusion:
        """Our detector, on networks of its own."""
        return fast_detector(
            copy.deepcopy(self.autoencoder),
            copy.deepcopy(self.network),
            self.process,
            amp,
            cuda_graphs=self.cuda_graphs,
            noise_level=self.noise_level,
            denoise_steps=steps,
            score=score,
            shifts=shifts,
        )

    def detection_ours(self) -> Callable[[], object]:
        """Detection of one batch, with the score of --preset recommended."""
        method = self.method(self.amp, self.steps, RECOMMENDED["score"], shifts=self.shifts)
        images = self.images(self.batch)
        return lambda: method.reconstruct(images, self.generators(self.batch))

    def released_map(self, image: Tensor, generator: torch.Generator, steps: int) -> tuple[Tensor, Tensor]:
        """The released detection of one image, over the first `steps` of its evaluations."""
        autoencoder, network = self.autoencoder.eval(), self.network.eval()
        alpha_bar = self.process.alpha_bar.to(self.device, torch.float32)
        levels = range(self.noise_level, self.noise_level - steps, -1)
        return released.detect(
            image, autoencoder.encode, autoencoder.decode, network, alpha_bar, generator, levels, self.noise_level
        )

    def detection_released(self) -> Callable[[], object]:
        """Detection of one image with `measured_steps` evaluations."""
        image = self.images(1)
        return lambda: self.released_map(image, self.generators(1)[0], self.measured_steps)

    def detection_constant(self) -> Callable[[], object]:
        """The same without any evaluation: encoding, decoding and map."""
        image = self.images(1)
        return lambda: self.released_map(image, self.generators(1)[0], 0)

    def equality(self, level: int) -> float:
        """Largest difference of maps and reconstructions, fast in float32 with every step against released, from L."""
        bench = copy.copy(self)
        bench.noise_level, images = level, self.images(2)
        ours = bench.method("off", level).reconstruct(images, self.generators(2))
        worst = 0.0
        for i, generator in enumerate(self.generators(2)):
            image, map_ = bench.released_map(images[i : i + 1], generator, level)
            for a, b in ((ours.image[i], image[0]), (ours.anomaly_map[i], map_[0])):
                worst = max(worst, float((a - b).abs().max()))
        return worst

    def stage1_released(self) -> Callable[[], object]:
        """One training step of the autoencoder."""
        network = copy.deepcopy(self.autoencoder).train().requires_grad_(True)
        step = released.Stage1(network, self._discriminator(), lambda: network.generator.last_layer).step
        images = self.images(self.train_batch)
        return lambda: step(images)

    def stage1_ours(self) -> Callable[[], object]:
        """One training step of the autoencoder before the adversarial term starts."""
        network, discriminator = copy.deepcopy(self.autoencoder).train().requires_grad_(True), self._discriminator()
        world = World(0, 1, self.device)
        losses = AutoencoderLosses(LossTerms(disc_start_step=NEVER), 0, world, network, discriminator)
        phases = [
            Phase("autoencoder", losses.wrapped_network, self._optimizer(network), losses.autoencoder),
            Phase(
                "discriminator", discriminator, make_optimizer(discriminator, LEARNING_RATE), losses.discriminate, NEVER
            ),
        ]
        modules = {"autoencoder": network, "discriminator": discriminator}
        return self._steps("autoencoder", modules, phases, 10, {"image": self.images(self.train_batch)}, losses.draws)

    def stage2_released(self) -> Callable[[], object]:
        """One training step of the diffusion network on images."""
        network = copy.deepcopy(self.network).train().requires_grad_(True)
        alpha_bar = self.process.alpha_bar.to(self.device, torch.float32)
        step, images = released.Stage2(network, self.autoencoder.encode, alpha_bar).step, self.images(self.train_batch)
        return lambda: step(images)

    def stage2_ours(self) -> Callable[[], object]:
        """One training step of the diffusion network on cached codes."""
        network = copy.deepcopy(self.network).train().requires_grad_(True)
        world = World(0, 1, self.device)
        loss = DiffusionLoss(
            world, network, self.process, None, 0, self.process.diffusion_steps, self.autoencoder.code_shape
        )
        if self.cuda_graphs:
            loss.record_graphs(self.train_batch, self.amp)
        phases = [Phase("unet", loss.network, self._optimizer(network), loss)]
        with torch.no_grad():
            code = (self.autoencoder.encode(self.images(self.train_batch)) > 0.5).float()
        return self._steps("unet", {"unet": network}, phases, 1, {"code": code, "shown": code}, loss.draws)

    def _optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        return make_optimizer(network, LEARNING_RATE, self.optimizer, amp=self.amp)

    def _discriminator(self) -> Discriminator:
        return Discriminator(self.image_shape[0]).to(self.device)

    def _steps(
        self,
        averaged: str,
        modules: dict,
        phases: list[Phase],
        ema_every: int,
        content: dict,
        draw: Callable[[int], dict],
    ) -> Callable:
        """A call that does the training loop's own step with the same batch again and again.

        What the losses draw was drawn before, as by the loader's workers.
        """
        training = Training(
            kind="benchmark",
            world=World(0, 1, self.device),
            options=TrainOptions(1, self.train_batch, 0, self.amp, ema_every=ema_every),
            log_dir=Path(),
            files=CheckpointFiles(Path(), "{step}", "{step}"),
            modules=modules,
            averaged=averaged,
            phases=phases,
            dataset=[],
            config={},
            settings={},
        )
        drawn = default_collate([draw(position) for position in range(self.train_batch)])
        if self.device.type == "cuda":
            drawn = {name: tensor.pin_memory() for name, tensor in drawn.items()}
        batch = content | drawn | {"position": torch.arange(self.train_batch)}
        numbers = count()
        return lambda: training.step(batch, next(numbers))


# What a child process runs, and its images per call.
WORKLOADS = {
    "detection released": (Workbench.detection_released, lambda bench: 1),
    "detection constant": (Workbench.detection_constant, lambda bench: 1),
    "detection ours": (Workbench.detection_ours, lambda bench: bench.batch),
    "stage 1 released": (Workbench.stage1_released, lambda bench: bench.train_batch),
    "stage 1 ours": (Workbench.stage1_ours, lambda bench: bench.train_batch),
    "stage 2 released": (Workbench.stage2_released, lambda bench: bench.train_batch),
    "stage 2 ours": (Workbench.stage2_ours, lambda bench: bench.train_batch),
}
# Those of the released procedure.
RELEASED = ("detection released", "detection constant", "stage 1 released", "stage 2 released")
