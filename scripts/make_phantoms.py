"""Make phantoms with the layout and file names of a raw release, as input to the real preparation.

    python scripts/make_phantoms.py --dataset brats --out demo/raw --patients 32 --seed 0 --workers 2
    python scripts/prepare_mri.py --data_dir demo/raw --out demo/brats --img_size 128

Brain phantoms (--dataset brats) are warped MNI152 brains with tumours of several kinds, written as
MICCAI_BraTS2020_TrainingData; name_mapping.csv there says which kind each patient has. Retinal phantoms
(--dataset OCT) are written as OCT2017, with masks. Complete patients are left as they are: run the same command
again to continue after an interruption, or with a larger --patients to add more.
"""

import argparse
from pathlib import Path

from tqdm import tqdm

from uad.cli.command import command_of
from uad.cli.flags import Flags, add
from uad.configuration import check_configuration, check_values
from uad.files import write_json

# Raised when the phantoms of a seed change, so that old and new ones are never mixed in one folder.
GENERATION = 1
MAX_PATIENTS = 999
CONFIGURATION = "phantoms_{dataset}.json"


def get_args_parser() -> Flags:
    """The flags, apart from main so that they can be tested."""
    parser = Flags(__doc__)
    add(parser, "--dataset", choices=("brats", "OCT"), required=True, help="which release to imitate")
    add(parser, "--out", type=Path, required=True, help="folder to write the release to")
    add(parser, "--patients", type=int, required=True, help="number of patients")
    add(parser, "--seed", type=int, default=0, help="patient i depends only on the seed and i")
    add(parser, "--workers", type=int, default=2, help="processes")
    return parser


def check(args: argparse.Namespace) -> None:
    """Refuse numbers that mean nothing, and a folder that holds the phantoms of another seed."""
    check_values(
        [
            ("--patients", args.patients, f"1 to {MAX_PATIENTS}", 1 <= args.patients <= MAX_PATIENTS),
            ("--seed", args.seed, "0 or more", args.seed >= 0),
            ("--workers", args.workers, "at least 1", args.workers >= 1),
        ]
    )
    path = args.out / CONFIGURATION.format(dataset=args.dataset)
    configuration = {"dataset": args.dataset, "seed": args.seed, "generation": GENERATION}
    check_configuration(path, configuration)
    write_json(path, configuration)


def main(args: argparse.Namespace) -> None:
    """Make the phantoms with a progress bar."""
    check(args)
    if args.dataset == "OCT":
        from uad.data.phantoms.oct import make_oct_release

        make_oct_release(args.out, args.patients, args.seed, args.workers)
    else:
        from uad.data.phantoms.brain import make_brain_release

        made = make_brain_release(args.out, args.patients, args.seed, args.workers)
        for _ in tqdm(made, total=args.patients, desc="brain phantoms", unit="patient"):
            pass
    print(f"{args.patients} patients in {args.out}")


command = command_of(get_args_parser, main)

if __name__ == "__main__":
    command()
