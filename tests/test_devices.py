"""Every method on a pretended CUDA device, whose tensors have shapes but no values, as in PyTorch's compiler.

They refuse what those of a real device refuse: to meet a tensor that was left on the CPU. And they refuse more: to give
a value to the host, for which a real device would have to be waited for.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import default_collate

from baselines import anoddpm, autoddpm, disyre, fae, ldm, patchcore, pddpm
from baselines.backbones import FrozenFeatures
from baselines.corruptions import LEVELS
from baselines.gaussian import per_image_noise
from baselines.simplex import SimplexNoise
from bernoulli_diffusion.architecture import Architecture, Model, Process
from bernoulli_diffusion.method import MaskedBernoulliDiffusion
from bernoulli_diffusion.objective import DiffusionLoss
from bernoulli_diffusion.process import BernoulliDiffusion
from bernoulli_diffusion.unet import PREDICTIONS
from binary_autoencoder.networks import BinaryAutoEncoder, Discriminator
from binary_autoencoder.objective import AutoencoderLosses, LossTerms
from uad.averaging import MovingAverage
from uad.checkpoints import CheckpointFiles
from uad.data.training.augmentation import augmented, drawn_augmentation
from uad.data.training.corruption import corrupted
from uad.data.training.lesions import KINDS, RECIPES, drawn_lesions
from uad.distributed import World
from uad.optimizers import OPTIMIZERS, make_optimizer
from uad.precision import autocast
from uad.sides import one_sided
from uad.train_options import TrainOptions
from uad.training import Phase, Training

CUDA = torch.device("cuda", 0)
WORLD = World(0, 1, CUDA)
SIZE, COUNT = 32, 2
CODE = (8, SIZE // 8, SIZE // 8)


class PretendedCuda(FakeTensorMode):
    """Tensors on CUDA are pretended, those on the CPU are real."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        leaves = tree_leaves((args, kwargs or {}))
        if any(isinstance(leaf, FakeTensor) or (isinstance(leaf, torch.device) and leaf == CUDA) for leaf in leaves):
            return super().__torch_dispatch__(func, types, args, kwargs)
        return func(*args, **kwargs or {})


class Generator:
    """Stands for a generator on the pretended device."""

    def __init__(self, *key, device: torch.device):
        self.device = torch.device(device)

    def initial_seed(self) -> int:
        """Which the host knows."""
        return 0


GENERATORS = [Generator(device=CUDA)] * COUNT


def simplex(self, generators: list[Generator], channels: int, size: int) -> Tensor:
    """In place of simplex noise, which NumPy computes."""
    return per_image_noise(generators, (channels, size, size))


# What some methods take from the images before a stage is trained.
CALIBRATED = {
    (ldm, "diffusion"): {"scale_factor": 1.0},
    (disyre, "restoration"): {
        "donors": torch.zeros(3, 1, SIZE, SIZE, dtype=torch.uint8),
        "levels": torch.linspace(0, 1, LEVELS)[None],
    },
}
# Without a real CUDA device PyTorch turns mixed precision off there.
pytestmark = pytest.mark.filterwarnings("ignore:CUDA is not available:UserWarning")


@pytest.fixture(autouse=True)
def pretended(monkeypatch):
    """Tensors on CUDA are pretended; random numbers need no generator."""
    for name in ("rand", "randn", "randint"):
        draw = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *args, draw=draw, generator=None, **more: draw(*args, **more))
    # Pretended tensors do not know it.
    monkeypatch.setattr(torch.inference_mode, "__enter__", lambda self: None)
    monkeypatch.setattr(torch.inference_mode, "__exit__", lambda self, *error: None)
    monkeypatch.setattr(SimplexNoise, "draw", simplex)
    with PretendedCuda(allow_non_fake_inputs=True), torch.no_grad():
        yield


def moved(network: nn.Module) -> nn.Module:
    """What `network.to(CUDA)` would do, which pretended tensors do not allow: parameters and buffers, nothing else."""
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(parameter.to(CUDA), parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(CUDA))
    return network


def images(size: int = SIZE) -> Tensor:
    return torch.rand(COUNT, 1, size, size, device=CUDA)


def autoencoder() -> BinaryAutoEncoder:
    shape = {"nf": 8, "emb_dim": 16, "ch_mult": (1, 1, 2, 2), "res_blocks": 1, "attn_resolutions": (4,)}
    return moved(BinaryAutoEncoder(n_channels=1, img_size=SIZE, codebook_size=CODE[0], norm_first=True, **shape))


def unet(prediction: str = "clean") -> nn.Module:
    shape = {"codebook_size": CODE[0], "code_size": CODE[1], "num_channels": 32, "channel_mult": (1, 2)}
    shape |= {"num_res_blocks": 1, "attention_resolutions": (2,), "prediction": prediction, "dropout": 0.1}
    return moved(Model(Architecture(**shape), Process()).build()[0])


@pytest.fixture
def steps(monkeypatch):
    """Training steps with gradients made up: there is no backward pass on pretended tensors. What a real step reads
    back, the loss once, is read here from nowhere.
    """

    def steps_of(modules: dict[str, nn.Module], phases: list[Phase], draws, batch: dict) -> list:
        def backward(loss: Tensor) -> None:
            assert loss.device == CUDA
            for parameter in (parameter for module in modules.values() for parameter in module.parameters()):
                parameter.grad = torch.rand_like(parameter)

        monkeypatch.setattr(Tensor, "backward", backward)
        monkeypatch.setattr(torch.autograd, "grad", lambda loss, weight, **_: (torch.rand_like(weight),))
        monkeypatch.setattr(World, "mean_on_host", lambda self, value: lambda: 0.0)
        options = TrainOptions(2, COUNT, 0, amp="bf16", clip_norm=1.0, lr_anneal_steps=9)
        training = Training(
            "pretended", WORLD, options, Path(), CheckpointFiles(Path(), "{step}", "{step}"), modules,
            next(iter(modules)), phases, dataset=[], config={}, settings={},
        )  # fmt: skip
        batch = batch | {"position": torch.arange(COUNT)} | default_collate([draws(p) for p in range(COUNT)])
        return [training.step(batch, number) for number in range(2)]

    return steps_of


def test_pretended_devices_do_not_mix():
    with pytest.raises(RuntimeError, match="device"):
        images() + torch.rand(COUNT, 1, SIZE, SIZE)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_steps_of_stage_1(steps, optimizer):
    terms = LossTerms(code_weight=0.1, disc_start_step=1, diff_aug=True)
    network, discriminator = autoencoder(), moved(Discriminator(1, 8, 2))
    losses = AutoencoderLosses(terms, 0, WORLD, network, discriminator)
    own, its = (make_optimizer(module, 1e-3, optimizer, amp="bf16") for module in (network, discriminator))
    phases = [
        Phase("autoencoder", network, own, losses.autoencoder),
        Phase("discriminator", discriminator, its, losses.discriminate, 1),
    ]
    modules = {"autoencoder": network, "discriminator": discriminator}
    first, second = steps(modules, phases, losses.draws, {"image": torch.rand(COUNT, 1, SIZE, SIZE)})
    assert (len(first), len(second)) == (1, 2)
    assert {sums.values.device for sums in (*first, *second)} == {CUDA}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_steps_of_stage_2(steps, optimizer, prediction):
    network, code = unet(prediction), torch.rand(COUNT, *CODE).round()
    loss = DiffusionLoss(WORLD, network, BernoulliDiffusion(), encode=None, seed=0, highest=20, code_shape=CODE)
    phases = [Phase("unet", network, make_optimizer(network, 1e-3, optimizer, amp="bf16"), loss)]
    for (sums,) in steps({"unet": network}, phases, loss.draws, {"code": code, "shown": code}):
        assert sums.values.device == CUDA and sums.names[0] == "loss"


def test_augmentation():
    drawn = default_collate([drawn_augmentation(1, SIZE, 1.0, np.random.default_rng(i)) for i in range(COUNT)])
    drawn = drawn._replace(coarse=torch.tensor([0, SIZE // 2]))
    assert augmented(images(), drawn).device == CUDA


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_synthetic_lesions(recipe):
    rng = np.random.default_rng(0)
    every_kind = [torch.tensor(kinds) for kinds in ((0, 1, 2), (3, 4, 3))]
    assert {int(kind) for kinds in every_kind for kind in kinds} == set(range(len(KINDS)))
    drawn = default_collate([drawn_lesions(1, SIZE, recipe, rng)._replace(kind=kinds) for kinds in every_kind])
    assert corrupted(images(), images(), drawn, recipe).device == CUDA


def test_the_moving_average_follows_without_asking_the_device():
    network = unet()
    average = MovingAverage(network, 0.9)
    for _ in range(3):
        average.update()
    assert average.updates == 3
    assert {parameter.device for parameter in average.module.parameters()} == {CUDA}


@pytest.mark.parametrize("options", [{"noise_level": 3}, {"shifts": 4, "score": "evidence", "polarity": (1,)}])
def test_detection(options):
    parts = autoencoder(), unet().eval()
    method = MaskedBernoulliDiffusion(
        parts[0].encode, parts[0].decode, parts[1], BernoulliDiffusion(), amp="bf16", **{"noise_level": 1} | options
    )
    result = method.reconstruct(images(), GENERATORS)
    assert result.image.device == result.anomaly_map.device == CUDA


def test_sides_are_compared_where_the_maps_are():
    """Pictures and slices of volumes in one batch, too."""
    columns, rows = np.eye(4)[[1, 0, 2, 3]], np.eye(4)
    for affines in ([columns] * COUNT, [rows] * COUNT, [columns, rows]):
        assert one_sided(images()[:, 0], images(), affines, "ab").device == CUDA


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (anoddpm, {"noise_level": 2}),
        (pddpm, {"noise_level": 2}),
        (pddpm, {"noise_level": 2, "iterative": True}),
        (ldm, {"noise_level": 2}),
        (ldm, {"noise_level": 2, "masked": True, "kl_threshold": 0.5, "kl_range": [1, 3], "kl_stride": 1}),
        (autoddpm, {"noise_level": 3, "resample_level": 2, "resamplings": 2, "mask_threshold": "image"}),
        (disyre, {"assumed_strengths": 2}),
        (disyre, {"multi_step": True}),
        (fae, {}),
    ],
)
def test_comparing_methods(method, options):
    size = fae.MULTIPLE if method is fae else SIZE
    config = method.configuration(size, 1, "small")
    modules = {stage: moved(module) for stage, module in method.build(config).items()}
    for stage in method.STAGES:
        config |= CALIBRATED.get((method, stage), {})
        with autocast("bf16", CUDA):
            loss, logged = method.loss(stage, config, modules, modules[stage], {"image": images(size)}, GENERATORS)
        assert {value.device for value in (loss, *logged.values())} == {CUDA}
        modules[stage].eval()
    result = method.Detector(config, modules, options, "bf16").reconstruct(images(size), GENERATORS)
    assert result.image.device == result.anomaly_map.device == CUDA


def test_a_method_that_is_fitted_at_once(monkeypatch):
    monkeypatch.setattr(FrozenFeatures, "load", lambda *_: None)
    config = patchcore.configuration(SIZE, 1, "small") | {"backbone": "resnet18", "backbone_weights": ""}
    modules = {stage: moved(module) for stage, module in patchcore.build(config).items()}
    config, modules = patchcore.fit(config, modules, iter([images()]), CUDA, "bf16")
    result = patchcore.Detector(config, modules, {}, "bf16").reconstruct(images(), GENERATORS)
    assert modules["memory"].rows.device == result.image.device == result.anomaly_map.device == CUDA
