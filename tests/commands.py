"""Running the project's commands inside the tests: in this process where that is enough, else as a user would."""

import importlib.util
import multiprocessing
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

ROOT = Path(__file__).parent.parent
STAGE1 = "binary_autoencoder/train_ae_dist.py"
STAGE2 = "scripts/latent_train.py"
DETECT = "scripts/latent_sample_anomaly.py"
ANSWER = "scripts/detect.py"
EVALUATE = "scripts/evaluation.py"
BENCHMARK = "benchmark/__main__.py"
TRAIN_BASELINE, SAMPLE_BASELINE = "scripts/train_baseline.py", "scripts/sample_baseline.py"

# A pipeline that trains in a second: 32x32 images, 16x16 codes of 8 bits.
SMALL_STAGE1 = (
    "--img_size 32 --nf 8 --ch_mult 1 2 --res_blocks 1 --emb_dim 16 --codebook_size 8 --norm_first --batch_size 4 "
    "--lr 1e-3 --steps_per_update_ema 1 --workers 0 --device cpu --steps_per_save_output 0 "
)
SMALL_STAGE2 = (
    "--num_channels 16 --channel_mult 1 2 --num_res_blocks 1 --batch_size 4 --lr 1e-3 --workers 0 --device cpu "
    "--steps_per_save_output 0 "
)


def forked(target: Callable, *args) -> multiprocessing.Process:
    """A process, not yet started, that calls target(*args) with what this one has in memory, but in a single thread:
    those of torch do not outlive the fork, and it would wait for them for ever.
    """
    return multiprocessing.get_context("fork").Process(target=_in_one_thread, args=(target, args))


def _in_one_thread(target: Callable, args: tuple) -> None:
    torch.set_num_threads(1)
    target(*args)


@cache
def module(script: str):
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(Path(script).stem, ROOT / script)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def run(script: str, words: str) -> None:
    """Run a command in this process; errors are raised."""
    loaded = module(script)
    loaded.main(loaded.get_args_parser().parse_args(shlex.split(words)))


def run_apart(script: str, words: str, processes: int = 1, cwd: Path | None = None) -> subprocess.CompletedProcess:
    """Run a command as a user would, under torchrun where there are several processes."""
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    target = ["-m", "benchmark"] if script == BENCHMARK else [str(ROOT / script)]
    command = [*launcher, *target, *shlex.split(words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, check=False)


def maps(folder: Path) -> dict[str, np.ndarray]:
    """The anomaly maps of a result folder, at least one, by file name and in its order."""
    paths = sorted((folder / "anomaly_map").glob("*.nii.gz"))
    assert paths
    return {path.name: np.asarray(nib.load(path).dataobj) for path in paths}
