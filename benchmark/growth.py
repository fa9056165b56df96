"""How detection and evaluation grow with the number of images: `--save maps`, tiny networks, intervals, all tables.

    python -m benchmark.growth --images 1000 10000

Images are noise in NPY files of 16 x 16 in a temporary folder, 50 of a patient. Half of them have a lesion; evaluation
takes the others as --healthy. The networks have seen one step of training: what they find means nothing.
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmark.measured import apart
from benchmark.tables import exponents, markdown
from uad.cli.command import command_of
from uad.cli.flags import Flags, add
from uad.configuration import check_values

SIZE, OF_A_PATIENT, LESION = 16, 50, slice(4, 8)
HEAD = ("images", "command", "seconds", "CPU seconds", "peak memory, MiB", "images a second")
STAGE1 = "--nf 8 --ch_mult 1 2 --res_blocks 1 --emb_dim 8 --codebook_size 8 --norm_groups 8 --n_channels 1"
STAGE2 = "--num_channels 8 --channel_mult 1 2 --num_res_blocks 1"
TRAINING = "--normalise none --device cpu --workers 0 --train_steps 1 --batch_size 4 --steps_per_save_output 0"


@dataclass(frozen=True)
class Request:
    """images: numbers of images; workers: of detection; bootstrap: resamples of the evaluation."""

    images: tuple[int, ...]
    workers: int
    bootstrap: int

    def __post_init__(self):
        """InputError for numbers that mean nothing."""
        check_values([("--images", count, "4 or more", count >= 4) for count in self.images])


def get_args_parser() -> Flags:
    """The flags."""
    parser = Flags(__doc__)
    add(parser, "--images", type=int, nargs="+", default=(1000, 10000), help="numbers of images")
    add(parser, "--workers", type=int, default=1, help="of detection")
    add(parser, "--bootstrap", type=int, default=1000, help="resamples of the evaluation")
    return parser


def main(args: argparse.Namespace) -> None:
    """Measure, and print the table and how fast it grows."""
    request = Request(tuple(args.images), args.workers, args.bootstrap)
    found = {}
    with tempfile.TemporaryDirectory() as root:
        run = trained(Path(root))
        for count in request.images:
            for command, took in measured(Path(root) / str(count), run, count, request).items():
                found[command, count] = took
    rows = [(count, command, *took.values(), count / took["seconds"]) for (command, count), took in found.items()]
    print(markdown(HEAD, rows))
    print(exponents(found, request.images))


def trained(root: Path) -> Path:
    """The folder of a run of both stages of one step."""
    make_folder(root / "few", 8, lesions=False)
    data = f"--data_dir {root / 'few'} {TRAINING}".split()
    apart(
        "binary_autoencoder/train_ae_dist.py", [*data, *STAGE1.split(), "--img_size", SIZE, "--log_dir", root / "run"]
    )
    apart("scripts/latent_train.py", [*data, *STAGE2.split(), "--ae_load_dir", root / "run"])
    return root / "run"


def measured(root: Path, run: Path, count: int, request: Request) -> dict[str, dict[str, float]]:
    """What detection of the images with lesions and evaluation took."""
    for name in ("diseased", "healthy"):
        make_folder(root / name, count // 2, lesions=name == "diseased")
    took = [
        apart(
            "scripts/latent_sample_anomaly.py",
            f"--data_dir {root / name} --ae_load_dir {run} --out_dir {root / 'results' / name} --save maps "
            f"--device cpu --workers {request.workers}".split(),
        )
        for name in ("diseased", "healthy")
    ]
    folders = [root / "results" / name for name in ("diseased", "healthy")]
    scored = apart(
        "scripts/evaluation.py", ["--results", folders[0], "--healthy", folders[1], "--bootstrap", request.bootstrap]
    )
    detection = {key: took[0][key] + took[1][key] for key in ("seconds", "cpu")} | {"mib": max(t["mib"] for t in took)}
    return {"detection": detection, "evaluation": scored}


def make_folder(folder: Path, count: int, lesions: bool) -> None:
    """A folder of `count` images, with masks where they show lesions."""
    masks = folder.with_name(f"{folder.name}_labels")
    for made in (folder, masks) if lesions else (folder,):
        made.mkdir(parents=True)
    rng = np.random.default_rng(0)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[LESION, LESION] = 1
    for number in range(count):
        name = f"p{number // OF_A_PATIENT}_{number % OF_A_PATIENT:03d}.npy"
        np.save(folder / name, rng.random((SIZE, SIZE), np.float32))
        if lesions:
            np.save(masks / name, mask)


command = command_of(get_args_parser, main)

if __name__ == "__main__":
    command()
