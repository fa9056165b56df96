"""Prepare a BraTS release: folders of axial slices, split by patient.

    python scripts/prepare_brats.py --data_dir MICCAI_BraTS2020_TrainingData --out data/brats
    python scripts/prepare_brats.py --data_dir RAW --out DIR --img_size 128 --every 2 --workers 8

RAW holds patient folders as downloaded (BraTS20_Training_001, BraTS2021_00000 or BraTS-GLI-00000-000), at
any depth. Below --out appear train_healthy, val_healthy, val_diseased and val_diseased_labels with slices
<patient>_<slice>.nii.gz (channels t1, t1ce, t2, flair; raw intensities), manifest.csv with a row per slice,
and prepare_brats.json with the configuration. Run the same command again to finish what was interrupted.
"""

import argparse
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from uad.cli.command import command_of
from uad.cli.flags import Flags, add
from uad.configuration import check_values
from uad.data.preparing.brats import LEFT_OUT, PLANE, SPLITS, Choice, find_patients, prepare


def get_args_parser() -> Flags:
    """The flags, apart from main so that they can be tested."""
    parser = Flags(__doc__)
    add(parser, "--data_dir", type=Path, required=True, help="the release, or a folder that holds it")
    add(parser, "--out", type=Path, required=True, help="folder to write to")
    add(
        parser,
        "--val_patients",
        type=float,
        default=0.2,
        help="patients for validation: a share of all if below 1, else their number",
    )
    add(parser, "--seed", type=int, default=0, help="of the choice of patients")
    add(parser, "--workers", type=int, default=2, help="processes")
    add(
        parser,
        "--img_size",
        type=int,
        default=PLANE,
        help="side of the slices: 256 pads by 8 pixels on each side, 128 then takes the mean of 2 x 2 pixels",
    )
    add(parser, "--skip_low", type=int, default=80, help="lowest slices left out")
    add(parser, "--skip_high", type=int, default=26, help="highest slices left out")
    add(parser, "--every", type=int, default=1, help="keep each K-th slice of the rest")
    add(
        parser,
        "--min_brain",
        type=float,
        default=0.02,
        help="slices with a smaller share of brain pixels are left out and counted",
    )
    return parser


def check(args: argparse.Namespace) -> None:
    """Refuse numbers that mean nothing, all at once."""
    share_or_count = args.val_patients > 0 and (args.val_patients <= 1 or args.val_patients % 1 == 0)
    divides = args.img_size >= 16 and PLANE % args.img_size == 0
    check_values(
        [
            ("--val_patients", args.val_patients, "a share between 0 and 1, or a whole number", share_or_count),
            ("--workers", args.workers, "at least 1", args.workers >= 1),
            ("--img_size", args.img_size, "256 or 256 divided by a whole number, at least 16", divides),
            ("--skip_low", args.skip_low, "0 or more", args.skip_low >= 0),
            ("--skip_high", args.skip_high, "0 or more", args.skip_high >= 0),
            ("--every", args.every, "at least 1", args.every >= 1),
            ("--min_brain", args.min_brain, "a share from 0 to 1", 0 <= args.min_brain < 1),
            ("--seed", args.seed, "0 or more", args.seed >= 0),
        ]
    )


def main(args: argparse.Namespace) -> None:
    """Prepare, then say how many slices of what there are."""
    check(args)
    choice = Choice(
        args.val_patients,
        args.seed,
        args.img_size,
        args.skip_low,
        args.skip_high,
        args.every,
        args.min_brain,
    )
    patients = find_patients(args.data_dir)
    counts = Counter()
    progress = prepare(patients, args.out, choice, args.workers)
    for _, rows, _ in tqdm(progress, total=len(patients), desc="preparing", unit="patient"):
        counts.update(row[3] for row in rows)
    print(f"{args.out}: " + ", ".join(f"{name} {counts[name]}" for name in (*SPLITS, *LEFT_OUT)))


command = command_of(get_args_parser, main)

if __name__ == "__main__":
    command()
