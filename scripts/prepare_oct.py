"""Prepare the OCT2017 release: flat folders of slices, split by patient.

    python scripts/prepare_oct.py --data_dir RAW --out prepared/OCT --img_size 256 --workers 8

RAW holds OCT2017/{train,test,val}/{NORMAL,DRUSEN,CNV,DME}/CLASS-<patient>-<n>.jpeg, as downloaded, or is
OCT2017 itself. Written to --out: NORMAL (training), val_NORMAL, DRUSEN, CNV, DME, their `_labels` if the raw
tree has masks, and manifest.csv with a row per file of the release. The release's train, test and val share
patients, so they are pooled and split again: all diseased images are for testing, and a patient in NORMAL is
in no other folder. Run the same command again to continue after an interruption.
"""

import argparse
from pathlib import Path

from uad.cli.command import command_of
from uad.cli.flags import Flags, add
from uad.configuration import check_values
from uad.data.preparing.oct import Choice, prepare


def get_args_parser() -> Flags:
    """The flags, apart from main so that they can be tested."""
    parser = Flags(__doc__)
    add(parser, "--data_dir", type=Path, required=True, help="OCT2017 or the folder that contains it")
    add(parser, "--out", type=Path, required=True, help="folder to write to")
    validation = parser.add_mutually_exclusive_group()
    add(
        validation,
        "--val_fraction",
        type=float,
        default=0.1,
        help="share of the patients with healthy images only that goes to val_NORMAL",
    )
    add(validation, "--val_patients", type=int, help="number of such patients instead of a share", shown="none")
    add(parser, "--seed", type=int, default=0, help="seed for choosing the patients")
    add(parser, "--workers", type=int, default=4, help="processes")
    add(
        parser,
        "--img_size",
        type=int,
        default=256,
        help="side of the PNG images, stretched to a square; 0 keeps the files",
    )
    add(parser, "--max_per_class", type=int, help="largest number of images in each output folder", shown="no limit")
    return parser


def check(args: argparse.Namespace) -> None:
    """Refuse numbers that mean nothing, all at once."""
    check_values(
        [
            ("--workers", args.workers, "at least 1", args.workers >= 1),
            ("--img_size", args.img_size, "a size of at least 16, or 0", args.img_size == 0 or args.img_size >= 16),
            ("--max_per_class", args.max_per_class, "at least 1", (args.max_per_class or 1) >= 1),
            ("--val_fraction", args.val_fraction, "between 0 and 1", 0 < args.val_fraction < 1),
        ]
    )


def main(args: argparse.Namespace) -> None:
    """Prepare, then say how much there is of what."""
    check(args)
    choice = Choice(
        args.val_fraction if args.val_patients is None else None,
        args.val_patients,
        args.seed,
        args.img_size,
        args.max_per_class,
    )
    counts = prepare(args.data_dir, args.out, choice, args.workers)
    print(f"{args.out}: " + ", ".join(f"{name} {count}" for name, count in counts.items()))


command = command_of(get_args_parser, main)

if __name__ == "__main__":
    command()
