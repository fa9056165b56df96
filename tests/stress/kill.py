"""Kill trainings and detections at random moments until nothing is left to kill, and compare with undisturbed runs.

    python tests/stress/kill.py --kills 20 --seed 0

Both stages, a comparing method with two stages (ldm) and detection run on tiny images. Each is killed with SIGKILL at
random moments, every second time while a file is being written, and started again by the same command until it ends by
itself, in as many folders as it takes to kill it --kills times. At the end all that a folder holds must be what the
undisturbed run's holds: checkpoints bit for bit, codes and maps byte for byte, the log line by line; and no image that
was done may have been done again. Prints one line per command; the exit code is 1 if anything differs.
"""

import argparse
import importlib.util
import json
import os
import shlex
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch._dynamo  # a training imports it; here once for all children, which are to be killed amid their work

from uad.checkpoints import load_checkpoint
from uad.files import TEMPORARY

ROOT = Path(__file__).parent.parent.parent
# Numbers of logs and records that depend on the machine's load.
VARYING = ("images_per_second", "cpu_seconds", "seconds", "peak_memory_mib")
COMMON = "--device cpu --workers 0 --steps_per_save_output 0 --steps_per_checkpoint 1 --keep 2 --steps_per_log 1"
STAGE1 = (
    "--dataset OCT --img_size 32 --nf 8 --ch_mult 1 2 --res_blocks 1 --emb_dim 16 --codebook_size 8 --norm_first "
    "--lr 1e-3 --batch_size 4 --steps_per_update_ema 1 --disc_start_step 3 --ndf 8 --disc_layers 1 --diff_aug "
    "--horizontal_flip "
)
STAGE2 = "--num_channels 16 --channel_mult 1 2 --num_res_blocks 1 --batch_size 4 --lr 1e-3 --horizontal_flip "
LDM = "--method ldm --size small --dataset OCT --img_size 32 --batch_size 2 --vqvae_steps 3 "


class Job(NamedTuple):
    """A command: its script, and its flags for an output folder."""

    name: str
    script: str
    words: Callable[[Path], str]


class Tally(NamedTuple):
    """What was done to a command: kills, those amid the writing of a file, folders finished, what differed."""

    kills: int
    while_writing: int
    folders: int
    differences: list[str]


def make_images(folder: Path, count: int) -> None:
    """Rectangles of random brightness, 32 x 32."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        image = np.zeros((32, 32), np.float32)
        image[8 + i % 4 : 24, 4:28] = rng.uniform(0.5, 1)
        np.save(folder / f"NORMAL-{i}-1.npy", image + rng.uniform(0, 0.05, image.shape).astype(np.float32))


def jobs(root: Path, steps: int) -> list[Job]:
    """The commands, each built on the undisturbed results of those before it in `root`."""
    data, stage1, stage2 = f"--data_dir {root / 'NORMAL'}", root / "stage1", root / "stage2"
    trained = f"--dataset OCT {data} --ae_load_dir {stage1}"
    train = f"{data} {COMMON} --train_steps {steps}"
    detect = f"{trained} --log_dir {stage2} --device cpu --workers 0 --noise_level 20 --denoise_steps 20 --batch_size 1"
    return [
        Job("stage1", "binary_autoencoder/train_ae_dist.py", lambda out: f"{STAGE1} {train} --log_dir {out}"),
        Job("stage2", "scripts/latent_train.py", lambda out: f"{STAGE2} {trained} {train} --log_dir {out}"),
        Job("ldm", "scripts/train_baseline.py", lambda out: f"{LDM} {train} --log_dir {out}"),
        Job("detection", "scripts/latent_sample_anomaly.py", lambda out: f"{detect} --out_dir {out}"),
    ]


@cache
def imported(script: str):
    """A script as a module, imported once: the children that are forked have it already."""
    spec = importlib.util.spec_from_file_location(Path(script).stem, ROOT / script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start(job: Job, out: Path) -> int:
    """Begin the command in a child process; returns its id. What it prints is appended to <out>.txt."""
    module = imported(job.script)
    args = module.get_args_parser().parse_args(shlex.split(job.words(out)))
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        output = os.open(out.with_name(f"{out.name}.txt"), os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        os.dup2(output, 1)
        os.dup2(output, 2)
        module.main(args)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def finish(job: Job, out: Path) -> float:
    """Run the command to its end; returns its seconds. RuntimeError where it fails."""
    imported(job.script)
    begin = time.monotonic()
    status = os.waitpid(start(job, out), 0)[1]
    if status:
        raise RuntimeError(f"{job.name} ended with status {status}; see {out}.txt")
    return time.monotonic() - begin


def kill_once(job: Job, out: Path, delay: float, in_write: bool, pause: float) -> tuple[bool, bool]:
    """Run the command and kill it after `delay` seconds, or `pause` after the next temporary file has come.

    Returns whether it was killed (else it had ended), and whether a temporary file was left.
    """
    child = start(job, out)
    due = time.monotonic() + delay
    while time.monotonic() < due or (in_write and not temporaries(out)):
        if os.waitpid(child, os.WNOHANG)[0]:
            return False, False
        time.sleep(1e-3 if in_write else min(0.01, max(0.0, due - time.monotonic())))
    time.sleep(pause)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status), bool(temporaries(out))


def temporaries(out: Path) -> list[Path]:
    """Files that were begun and not yet put in place."""
    return list(out.rglob(f"{TEMPORARY}*"))


def contents(out: Path) -> dict[str, object]:
    """What a folder holds, by file, without what depends on the machine's load."""
    found: dict[str, object] = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file() and not path.name.startswith(TEMPORARY)):
        name = str(path.relative_to(out))
        if path.suffix in (".th", ".pt"):
            checkpoint = load_checkpoint(path)
            found[name] = {key: value for key, value in checkpoint.items() if key not in ("versions", "command")}
        elif path.suffix == ".jsonl" or path.parent.name == "records":
            lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            found[name] = [{k: v for k, v in json.loads(line).items() if k not in VARYING} for line in lines]
        elif path.name != "run.json":  # it holds the command, with the folder's name
            found[name] = path.read_bytes()
    return found


def difference(first, second, where: str) -> str | None:
    """The first place in which two nested values differ, or None."""
    if torch.is_tensor(first) and torch.is_tensor(second):
        return None if torch.equal(first, second) else where
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        return next(filter(None, (difference(first[k], second[k], f"{where}/{k}") for k in first)), None)
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)) and len(first) == len(second):
        pairs = enumerate(zip(first, second, strict=True))
        return next(filter(None, (difference(a, b, f"{where}/{i}") for i, (a, b) in pairs)), None)
    return None if type(first) is type(second) and first == second else where


def written_twice(before: dict[Path, int], out: Path) -> list[str]:
    """Records that have changed since `before`: images that were done again."""
    now = record_times(out)
    return [f"{path.name} was written again" for path, stamp in before.items() if now.get(path) != stamp]


def record_times(out: Path) -> dict[Path, int]:
    """When each image was completed."""
    return {path: path.stat().st_mtime_ns for path in (out / "records").glob("[!.]*.json")}


def torment(job: Job, root: Path, kills: int, rng: np.random.Generator) -> Tally:
    """Run a command undisturbed, then kill it `kills` times and compare what comes out."""
    seconds = finish(job, root / job.name)
    expected = contents(root / job.name)
    killed, while_writing, folders, differences = 0, 0, 0, []
    while killed < kills:
        out = root / f"{job.name}-{folders}"
        ended = False
        while not ended and killed < kills:
            before = record_times(out)
            struck, writing = kill_once(job, out, rng.uniform(0, seconds), killed % 2 == 0, rng.uniform(0, 2e-3))
            differences += written_twice(before, out)
            killed, while_writing, ended = killed + struck, while_writing + writing, not struck
        finish(job, out)
        folders += 1
        differences += filter(None, [difference(expected, contents(out), str(out))])
    return Tally(killed, while_writing, folders, differences)


def main() -> int:
    """Torment all commands and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="kills per command")
    parser.add_argument("--only", nargs="+", help="these commands; what they need must be among them")
    parser.add_argument("--steps", type=int, default=12, help="training steps of each command")
    parser.add_argument("--images", type=int, default=10, help="images to train on and to detect in")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    torch.set_num_threads(1)  # a forked child must not inherit the parent's idle threads
    rng = np.random.default_rng(args.seed)
    failed = False
    print(f"{'command':12}{'kills':>7}{'amid a file':>13}{'folders':>9}  result", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_images(root / "NORMAL", args.images)
        for job in jobs(root, args.steps):
            if args.only and job.name not in args.only:
                continue
            tally = torment(job, root, args.kills, rng)
            result = "; ".join(tally.differences) or "the same as undisturbed, nothing done twice"
            counts = f"{tally.kills:>7}{tally.while_writing:>13}{tally.folders:>9}"
            print(f"{job.name:12}{counts}  {result}", flush=True)
            failed |= bool(tally.differences)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
