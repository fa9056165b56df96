"""Flags of images and folders, and what they become: Reading, Folders, and whether a command only looks."""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from uad.cli.flags import add, add_switch, given
from uad.data.reading.benchmarks import LAYOUTS
from uad.data.reading.groups import PARTS
from uad.data.reading.normalise import NORMALISATIONS
from uad.data.reading.opening import Folders, check_once
from uad.data.reading.settings import CHANNELS, DATASETS, IMG_SIZE, Reading
from uad.distributed import World
from uad.errors import input_error
from uad.suited import default_shown, suited_to

HEALTHY_VALIDATION = "folder of healthy slices for --steps_per_eval"
COMPARED = "accepted, and compared with the checkpoint"
WHERE_FROM = "(needed for a released checkpoint, which holds weights only)"
THE_CHECKPOINTS = "the checkpoint's"
DATA_DIR_HELP = (
    "folder of slices. Masks are read from <folder>_labels, or from files next to the images (x_mask.png for x.png) if "
    "every image has one. With --split, the folder of a data set as it was released"
)
PART_HELP = (
    "part to read of a benchmark as it was released (see data/README.md), whose folder is --data_dir: healthy and "
    "diseased images with their masks, for train only the healthy ones"
)
TABLE_HELP = (
    "; or, for a folder of slices, a CSV file with columns patient, part (train or val). Every patient in --data_dir "
    "must be listed as train; no patient in --val_dir or --test_dir may be"
)


def compared_group(parser: argparse.ArgumentParser):
    """The one help group of flags that a command accepts and compares with a checkpoint."""
    for group in parser._action_groups:
        if group.title == COMPARED:
            return group
    return parser.add_argument_group(COMPARED, WHERE_FROM)


def add_reading_flags(parser: argparse.ArgumentParser, compared: bool = False) -> None:
    """How images are read: chosen, or only compared with a checkpoint."""
    group = compared_group(parser) if compared else parser.add_argument_group("images")
    add(
        group,
        "--dataset",
        default=None if compared else "custom",
        choices=DATASETS,
        help="brats: 4 channels; OCT: 1 channel; custom, or its historical alias chexpert: as many as --n_channels",
        shown=THE_CHECKPOINTS if compared else None,
    )
    shown = THE_CHECKPOINTS if compared else "4 for brats, 1 for OCT"
    add(group, "--n_channels", type=int, help="image channels", shown=shown)
    add(
        group,
        "--img_size",
        type=int,
        default=None if compared else IMG_SIZE,
        help="side in pixels of the square that images are resized to",
        shown=THE_CHECKPOINTS if compared else None,
    )
    add(
        group,
        "--normalise",
        choices=NORMALISATIONS,
        help="how intensities are scaled to [0, 1], per slice. joint: minimum..maximum over all channels together, as "
        "in the released code; percentile: per channel, 99.5th percentile of the foreground to 1; foreground: per "
        "channel, by median and interquartile range, also for standardised images; tissue: per channel, median of the "
        "tissue's interior to 0.4, air to 0, with or without skull; retina: like tissue, but the white that "
        "registration leaves at the upper and lower border counts as air; none: already in [0, 1]",
        shown=THE_CHECKPOINTS if compared else default_shown("normalise"),
    )


def reading_of(args: argparse.Namespace) -> Reading:
    """How the flags say that images are read; InputError where the number of channels is not known."""
    n_channels = _channels_of(args)
    if n_channels is None:
        raise input_error(
            "--n_channels",
            f"not given, with --dataset {args.dataset}",
            "the number of channels",
            "pass --n_channels",
        )
    normalise = args.normalise or suited_to(args.dataset).normalise
    return Reading(args.dataset, n_channels, args.img_size, normalise)


def given_reading(args: argparse.Namespace) -> dict:
    """What the flags of `add_reading_flags(compared=True)` state, by name; a data set states its channels."""
    n_channels = _channels_of(args)
    stated = given(args, ("dataset", "img_size", "normalise"))
    return stated | ({} if n_channels is None else {"n_channels": n_channels})


def _channels_of(args: argparse.Namespace) -> int | None:
    implied = CHANNELS.get(args.dataset)
    if args.n_channels is not None and implied is not None and args.n_channels != implied:
        raise input_error(
            "--n_channels",
            f"{args.n_channels}, with --dataset {args.dataset}",
            f"{implied}",
            "leave it out, or use --dataset custom",
        )
    return implied if args.n_channels is None else args.n_channels


@dataclass(frozen=True)
class Opening:
    """The folders of a command, and whether it ends once they are checked: check_data, or dry_run, which also shows
    the settings. workers: threads that check.
    """

    folders: Folders
    check_data: bool
    dry_run: bool
    workers: int

    def of_slices(self, folder: str) -> "Opening":
        """The same of a folder of slices, also where the images are a part of a release."""
        return replace(self, folders=replace(self.folders, data_dir=folder, part=None, layout=None, contrast=None))


def add_folder_flags(parser: argparse.ArgumentParser, validation: str | None = None, training: bool = False) -> None:
    """Where the images lie; validation: with --val_dir, which is this; training: with --test_dir, and with tables for
    --split.
    """
    group = parser.add_argument_group("folders")
    add(group, "--data_dir", help=DATA_DIR_HELP, shown="required")
    if validation:
        add(group, "--val_dir", help=validation, shown="none")
    if training:
        add(group, "--test_dir", help="folder whose patients must not be among the training patients", shown="none")
    add_release_flags(group, tables=training)
    add(
        group,
        "--patients",
        help="CSV file with columns name, patient, for scans or slices whose file names do not contain the patient",
        shown="manifest.csv next to a folder made by prepare_mri.py; otherwise taken from the file names",
    )
    add(group, "--num_samples", type=int, default=0, help="use only this many images, evenly spread; 0: all")
    add_switch(group, "--check_data", "check the folders, report, and stop")
    add_switch(group, "--dry_run", "check the folders, show the settings that would be used, and stop")


def add_release_flags(group, tables: bool) -> None:
    """What of a benchmark is read; tables: --split takes a table of patients, too."""
    if tables:
        add(group, "--split", help=f"{', '.join(PARTS)}: {PART_HELP}{TABLE_HELP}", shown="none")
    else:
        add(group, "--split", choices=PARTS, help=PART_HELP, shown="none")
    add_layout_flags(group, "--split")


def add_layout_flags(group, flag: str) -> None:
    """How a benchmark lies on the disk, beside the flag that says it is one."""
    add(group, "--layout", choices=tuple(LAYOUTS), help=f"with {flag}, the release's folder layout", shown="recognised")
    add(
        group,
        "--contrast",
        help=f"with {flag}, the contrast to read, such as t2, if each file shows one of several",
        shown="the only one",
    )


def opening_of(args: argparse.Namespace, val_lesions: bool = False) -> Opening:
    """What the flags of `add_folder_flags` say; val_lesions: see Folders."""
    val_dir, test_dir = (getattr(args, name, None) for name in ("val_dir", "test_dir"))
    part, table = (args.split, None) if args.split in PARTS else (None, args.split)
    if table is not None and not Path(table).exists():
        expected = f"{', '.join(PARTS)}, or a CSV file of `patient, part`"
        raise input_error("--split", f"{table}, which is no file", expected, "correct the word or the path")
    shared = (args.num_samples, args.patients, table)
    folders = Folders(args.data_dir, val_dir, test_dir, *shared, part, args.layout, args.contrast, val_lesions)
    return Opening(folders, args.check_data, args.dry_run, args.workers)


def ready(
    opening: Opening, reading: Reading, world: World, batch_size: int | None = None, healthy: bool = False
) -> bool:
    """Check the folders and say what they hold; whether the command goes on.

    batch_size, healthy: see uad.data.reading.opening.check_folders.
    """
    summaries = check_once(opening.folders, reading, batch_size, healthy, opening.workers, world)
    if world.is_main:
        print("\n".join(summaries))
    return not opening.check_data


def only_shown(opening: Opening, settings: Mapping, world: World) -> bool:
    """Whether the command only shows its settings, plain values by name; if so, they are printed."""
    if opening.dry_run and world.is_main:
        print(json.dumps(settings, indent=2, default=str))
    return opening.dry_run
