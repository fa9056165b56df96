"""On a real CUDA device, where there is one: it gives what the CPU gives, and every command runs there.

Without one, tests/test_devices.py pretends.
"""

import copy
import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import (
    DETECT,
    ROOT,
    SAMPLE_BASELINE,
    SMALL_STAGE1,
    SMALL_STAGE2,
    STAGE1,
    STAGE2,
    TRAIN_BASELINE,
    maps,
    run,
)
from short_training import discs
from torch import nn
from torch.utils.data import default_collate

from bernoulli_diffusion import detect
from bernoulli_diffusion.method import MaskedBernoulliDiffusion
from bernoulli_diffusion.process import BernoulliDiffusion
from bernoulli_diffusion.unet import FlipUNet
from binary_autoencoder.networks import BinaryAutoEncoder
from uad.cuda_graphs import GraphedInference
from uad.data.reading.formats import write_slice
from uad.data.training.augmentation import augmented, drawn_augmentation
from uad.data.training.corruption import corrupted
from uad.data.training.lesions import RECIPES, drawn_lesions
from uad.distributed import distributed_world
from uad.precision import prepare_inference
from uad.randomness import keyed_generator, uniform_field

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
SIZE, COUNT = 64, 3
# After the flags of tests/commands.py: of a flag that is given twice the last one counts.
ON_CUDA = "--device cuda --workers 0 --n_channels 2 --normalise none"


@pytest.fixture(scope="module")
def networks() -> tuple[BinaryAutoEncoder, FlipUNet]:
    """Both networks with random weights, none of them zero."""
    torch.manual_seed(0)
    process = BernoulliDiffusion()
    autoencoder = BinaryAutoEncoder(SIZE, 2, nf=16, ch_mult=(1, 2, 2, 4), codebook_size=32, norm_first=True)
    unet = FlipUNet(32, 8, 64, (1, 2), prediction="clean", noise_log_odds=process.noise_log_odds())
    for parameter in unet.parameters():
        nn.init.normal_(parameter, std=0.05)
    return autoencoder.eval(), unet.eval()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """train_healthy (12 slices) and val_diseased (5), of two channels."""
    root = tmp_path_factory.mktemp("discs")
    for seed, (folder, count) in enumerate((("train_healthy", 12), ("val_diseased", 5))):
        for i, image in enumerate(discs(count, 32, seed, lesion=folder == "val_diseased")[0].numpy()):
            write_slice(root / folder / f"{folder}{i:02d}_000.nii.gz", image, np.diag([-2.0, -2.0, 3.0, 1.0]))
    return root


def all_maps(folder: Path) -> np.ndarray:
    found = maps(folder)
    assert len(found) == 5
    return np.stack(list(found.values()))


def detected(networks, device: str, amp: str, images: torch.Tensor, noise_level: int):
    """Reconstruction of images on a device, with all shifts and the same random numbers everywhere."""
    autoencoder, unet = (prepare_inference(copy.deepcopy(network).to(device), amp) for network in networks)
    method = MaskedBernoulliDiffusion(
        autoencoder.encode, autoencoder.decode, unet, BernoulliDiffusion(), noise_level, amp=amp, score="evidence",
        shifts=4,
    )  # fmt: skip
    return method.reconstruct(images.to(device), [keyed_generator("cuda", i) for i in range(len(images))])


@pytest.fixture
def host_randomness(monkeypatch):
    """Random numbers drawn on the CPU, because a CUDA generator gives others for the same key."""
    monkeypatch.setattr(detect, "uniform_field", lambda generators, shape: uniform_field(generators, shape).to("cuda"))


@pytest.mark.parametrize("noise_level", [1, 5])
def test_detection_equals_the_cpus(networks, host_randomness, monkeypatch, noise_level):
    images = discs(COUNT, SIZE, 0, lesion=True)[0]
    with distributed_world("cuda"):
        on_cuda = detected(networks, "cuda", "off", images, noise_level)
    monkeypatch.undo()
    on_cpu = detected(networks, "cpu", "off", images, noise_level)
    for kind in ("autoencoder", "flip_probability"):
        torch.testing.assert_close(on_cuda.extras[kind].cpu(), on_cpu.extras[kind], atol=5e-5, rtol=0)
    torch.testing.assert_close(on_cuda.anomaly_map.cpu(), on_cpu.anomaly_map, atol=5e-5, rtol=1e-3)


@pytest.fixture
def no_waiting():
    """An error where the host waits for the device."""
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_augmentation_and_lesions_equal_the_cpus_without_waiting(recipe, no_waiting):
    images = discs(20, SIZE, 0)[0]
    rngs = [np.random.default_rng(i) for i in range(len(images))]
    how = default_collate([drawn_augmentation(2, SIZE, 1.0, rng) for rng in rngs])
    lesions = default_collate([drawn_lesions(2, SIZE, recipe, rng) for rng in rngs])
    varied = augmented(images, how)
    shown = corrupted(varied, images, lesions, recipe)
    there, originals = (value.pin_memory().to("cuda", non_blocking=True) for value in (varied, images))
    found = augmented(originals, how), corrupted(there, originals, lesions, recipe)
    torch.cuda.set_sync_debug_mode("default")
    for on_cuda, on_cpu in zip(found, (varied, shown), strict=True):
        torch.testing.assert_close(on_cuda.cpu(), on_cpu, atol=2e-5, rtol=0)


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_is_near_float32(networks, host_randomness, amp):
    images = discs(COUNT, SIZE, 0, lesion=True)[0]
    exact, mixed = (detected(networks, "cuda", mode, images, 1).extras["flip_probability"] for mode in ("off", amp))
    assert (exact - mixed).abs().mean() < 0.02


def test_images_of_a_batch_do_not_meet(networks, host_randomness):
    images = discs(COUNT, SIZE, 0, lesion=True)[0]
    together = detected(networks, "cuda", "off", images, 1).anomaly_map
    for i in range(COUNT):
        fewer = detected(networks, "cuda", "off", images[: i + 1], 1).anomaly_map[i]
        torch.testing.assert_close(fewer, together[i], atol=1e-5, rtol=1e-4)


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
@pytest.mark.parametrize("amp", ["bf16", "fp16", "off"])
def test_both_stages_train_resume_and_detect(data, tmp_path, amp, optimizer):
    flags = f"{ON_CUDA} --dataset custom --amp {amp} --optimizer {optimizer} --steps_per_log 2 --seed 1"
    healthy = f"--data_dir {data / 'train_healthy'}"
    for name, goals in (("whole", (8,)), ("resumed", (4, 8))):
        for steps in goals:
            run(STAGE1, f"{SMALL_STAGE1} {flags} {healthy} --log_dir {tmp_path / name} --train_steps {steps}")
    whole, resumed = losses(tmp_path / "whole"), losses(tmp_path / "resumed")
    assert len(whole) == len(resumed) == 4
    np.testing.assert_allclose(resumed, whole, rtol=0.02)
    stage2 = f"{SMALL_STAGE2} {flags} {healthy} --ae_load_dir {tmp_path / 'whole'}"
    for steps in (4, 8):
        run(STAGE2, f"{stage2} --train_steps {steps}")
    found = f"{ON_CUDA} --dataset custom --amp {amp} --data_dir {data / 'val_diseased'}"
    for batch_size in (1, 5):
        out = tmp_path / f"out{batch_size}"
        run(DETECT, f"{found} --ae_load_dir {tmp_path / 'whole'} --batch_size {batch_size} --out_dir {out}")
    assert np.isfinite(all_maps(tmp_path / "out1")).all() and all_maps(tmp_path / "out1").max() > 0
    if amp == "off":
        np.testing.assert_allclose(all_maps(tmp_path / "out5"), all_maps(tmp_path / "out1"), atol=1e-5, rtol=1e-4)


def test_a_launched_process_trains_with_nccl(data, tmp_path):
    words = f"{SMALL_STAGE1} {ON_CUDA} --dataset custom --data_dir {data / 'train_healthy'} --amp"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1", str(ROOT / STAGE1)]
    done = subprocess.run(
        [*command, *shlex.split(f"{words} --log_dir {tmp_path} --train_steps 3")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "3 of 3 steps" in done.stdout


@pytest.mark.parametrize("method", ["anoddpm", "pddpm", "ldm", "autoddpm", "disyre"])
def test_comparing_methods(data, tmp_path, method):
    flags = f"--method {method} --device cuda --workers 0 --amp --log_dir {tmp_path / 'run'}"
    run(
        TRAIN_BASELINE,
        f"{flags} --size small --n_channels 2 --img_size 32 --normalise none --data_dir {data / 'train_healthy'} "
        "--train_steps 3 --batch_size 2",
    )
    more = "--assumed_strengths 2" if method == "disyre" else "--noise_level 3"
    if method == "autoddpm":
        more += f" --resample_level 2 --resamplings 1 --healthy_dir {data / 'train_healthy'}"
    run(
        SAMPLE_BASELINE,
        f"{flags} --data_dir {data / 'val_diseased'} --out_dir {tmp_path / 'out'} {more}",
    )
    assert np.isfinite(all_maps(tmp_path / "out")).all()


def test_recorded_steps_lose_and_resume_as_launched_ones(data, tmp_path):
    """100 steps, with dropout, in workers' memory that is pinned in a thread of its own."""
    flags = f"{ON_CUDA} --dataset custom --amp bf16 --steps_per_log 10 --seed 1 --data_dir {data / 'train_healthy'}"
    run(STAGE1, f"{SMALL_STAGE1} {flags} --log_dir {tmp_path / 'ae'} --train_steps 20")
    stage2 = f"{SMALL_STAGE2} {flags} --ae_load_dir {tmp_path / 'ae'} --dropout 0.1 --workers 2"
    for name, goals, more in (
        ("launched", (100,), ""),
        ("recorded", (100,), "--cuda_graphs"),
        ("resumed", (60, 100), "--cuda_graphs"),
    ):
        for steps in goals:
            run(STAGE2, f"{stage2} {more} --log_dir {tmp_path / name} --train_steps {steps}")
    launched, recorded, resumed = (losses(tmp_path / name) for name in ("launched", "recorded", "resumed"))
    assert len(launched) == 10
    np.testing.assert_allclose(recorded, launched, rtol=0.02)
    np.testing.assert_allclose(resumed, recorded, rtol=0.02)


def test_recorded_detection_gives_the_same_maps(networks):
    """Also of batches of another size, which were not recorded, and of the first one again."""
    autoencoder, unet = (prepare_inference(copy.deepcopy(network).to("cuda"), "bf16") for network in networks)
    passes = [autoencoder.encode, autoencoder.decode, unet]
    recorded = [GraphedInference(each, "bf16") for each in passes]
    found = []
    for functions in (passes, recorded):
        method = MaskedBernoulliDiffusion(*functions, BernoulliDiffusion(), 1, amp="bf16", shifts=4)
        for count in (COUNT, 1, COUNT):
            images = discs(COUNT, SIZE, 0, lesion=True)[0][:count].to("cuda")
            generators = [keyed_generator("cuda", i, device="cuda") for i in range(count)]
            found.append(method.reconstruct(images, generators).anomaly_map.cpu())
    for launched, replayed in zip(found[:3], found[3:], strict=True):
        torch.testing.assert_close(replayed, launched, atol=1e-5, rtol=1e-4)


def test_noise_of_a_training_is_that_of_the_cpu(data, tmp_path):
    """The first step's loss, before any rounding was learnt from."""
    flags = f"--dataset custom --n_channels 2 --normalise none --data_dir {data / 'train_healthy'} --steps_per_log 1"
    run(STAGE1, f"{SMALL_STAGE1} {flags} --device cpu --workers 0 --log_dir {tmp_path / 'ae'} --train_steps 2")
    for device in ("cpu", "cuda"):
        where = f"--device {device} --workers 0 --ae_load_dir {tmp_path / 'ae'} --log_dir {tmp_path / device}"
        run(STAGE2, f"{SMALL_STAGE2} {flags} {where} --train_steps 1")
    np.testing.assert_allclose(losses(tmp_path / "cuda"), losses(tmp_path / "cpu"), rtol=1e-4)
