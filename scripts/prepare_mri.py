"""Prepare volumes: folders of axial slices, split by patient.

    python scripts/prepare_mri.py --data_dir MICCAI_BraTS2020_TrainingData --out data/brats
    python scripts/prepare_mri.py --data_dir IXI-FLAIR --out data/ixi --healthy --channels flair
    python scripts/prepare_mri.py --data_dir D/Test/Brats21 --channels t2 --split D/splits/Brats21_test.csv --out DIR
    python scripts/prepare_mri.py --data_dir RAW --out DIR --img_size 128 --every 2 --workers 8

RAW holds volumes (NIfTI; with the extra `formats` also .mha, .nrrd and folders of DICOM) in any of these layouts, at
any depth: patient folders or one flat folder of files whose names end in the contrast (all BraTS releases, IXI, ...),
BIDS, the Medical Segmentation Decathlon or nnU-Net with dataset.json, the TIFF folders of kaggle_3m, and the data sets
of Behrendt et al. (2025), with a folder each for t1, t2, seg and mask (the brain mask, not used). Each volume is turned
to one orientation by its header, and its slices are resampled to --spacing.

Written to --out: train_healthy, val_healthy, val_diseased and val_diseased_labels with slices <scan>_<slice>.nii.gz
(raw intensities), manifest.csv with a row per slice, volumes.csv with the geometry of every volume before and after,
contact_sheet.png to look at, and prepare_mri.json with the configuration. Run the same command again to continue after
an interruption.
"""

import argparse
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from uad.cli.command import command_of
from uad.cli.flags import Flags, add, add_switch
from uad.configuration import check_values
from uad.data.preparing.mri import LEFT_OUT, SPLITS, Choice, Task, geometry_notices, prepare, values_notice
from uad.data.preparing.splitting import SCANS, list_scans, listed_parts, split_patients, stated_split
from uad.data.reading.layouts import Found, Scan, find_scans, is_brats
from uad.data.reading.patients import patient_of_scan, read_patients, read_split
from uad.data.reading.planes import PLANE, Framing
from uad.data.reading.prepared import MANIFEST
from uad.data.reading.scans import scan_grid
from uad.errors import InputError, input_error

# A patient has at most so many scans in one data set.
MOST_SCANS = 20
# Slices that are left out of the 155 of BraTS at the bottom and top, as the authors do.
BRATS_SLICES, BRATS_SKIPS = 155, (80, 26)


def get_args_parser() -> Flags:
    """The flags, apart from main so that they can be tested."""
    parser = Flags(__doc__)
    add(parser, "--data_dir", type=Path, required=True, help="the release, or a folder that contains it")
    add(parser, "--out", type=Path, required=True, help="folder to write to")
    add(
        parser,
        "--channels",
        nargs="+",
        help="contrasts in the order to store them, such as flair t1; NAME=ENDING if file names have other endings",
        shown="t1 t1ce t2 flair for BraTS, else all that are found",
    )
    add_switch(parser, "--healthy", "all scans are of healthy people; no segmentation is looked for")
    add_switch(parser, "--no_labels", "scans have no segmentation; all slices go to the folder unlabelled")
    add(
        parser,
        "--val_patients",
        type=float,
        default=0.2,
        help="patients for validation: a share of all if below 1, else their number; 0: none",
    )
    add(parser, "--seed", type=int, default=0, help="seed for choosing the patients")
    add(
        parser,
        "--patients",
        help="CSV file with columns name (of a scan), patient",
        shown="taken from the scans' names",
    )
    add(
        parser,
        "--split",
        nargs="+",
        help="CSV file with columns patient, part (train or val); or lists of scans with a column img_name, each file "
        "named after its part, such as IXI_train_fold0.csv IXI_val_fold0.csv; scans in no list are left out",
        shown="by --val_patients",
    )
    add(parser, "--workers", type=int, default=2, help="processes")
    add(
        parser,
        "--spacing",
        type=float,
        default=1.0,
        help="millimetres per pixel of the 256 x 256 plane; 0: each volume keeps its own",
    )
    add_switch(parser, "--resample", "resample a scan's volumes on other grids onto that of the first channel")
    add(
        parser,
        "--img_size",
        type=int,
        default=PLANE,
        help="side of the slices: 256 pads or crops the plane, 128 then takes the mean of 2 x 2 pixels",
    )
    add(parser, "--skip_low", type=int, help="lowest slices to skip", shown="80 for the 155 slices of BraTS, else 0")
    add(parser, "--skip_high", type=int, help="highest slices to skip", shown="26 for the 155 slices of BraTS, else 0")
    add(parser, "--every", type=int, default=1, help="keep every K-th of the remaining slices")
    add(
        parser,
        "--min_brain",
        type=float,
        default=0.02,
        help="slices in which the patient covers a smaller share are left out and counted",
    )
    return parser


def check(args: argparse.Namespace) -> None:
    """Refuse numbers that mean nothing, all at once."""
    share_or_count = args.val_patients >= 0 and (args.val_patients <= 1 or args.val_patients % 1 == 0)
    divides = args.img_size >= 16 and PLANE % args.img_size == 0
    one = not (args.healthy and args.no_labels)
    check_values(
        [
            ("--val_patients", args.val_patients, "a share between 0 and 1, or a whole number", share_or_count),
            ("--workers", args.workers, "at least 1", args.workers >= 1),
            ("--spacing", args.spacing, "more than 0, or 0 to keep the volumes' own", args.spacing >= 0),
            ("--img_size", args.img_size, "256 or 256 divided by a whole number, at least 16", divides),
            ("--skip_low", args.skip_low, "0 or more", args.skip_low is None or args.skip_low >= 0),
            ("--skip_high", args.skip_high, "0 or more", args.skip_high is None or args.skip_high >= 0),
            ("--every", args.every, "at least 1", args.every >= 1),
            ("--min_brain", args.min_brain, "a share from 0 to 1", 0 <= args.min_brain < 1),
            ("--seed", args.seed, "0 or more", args.seed >= 0),
            ("--healthy with --no_labels", "both", "one of them: healthy, or not known", one),
        ]
    )


def choice_of(args: argparse.Namespace, found: Found) -> Choice:
    """What the flags say of these scans."""
    of_brats = all(is_brats(scan) and axial_slices(scan) == BRATS_SLICES for scan in found.scans)
    skips = BRATS_SKIPS if of_brats else (0, 0)
    return Choice(
        channels=found.channels,
        health="healthy" if args.healthy else "unknown" if args.no_labels else "seg",
        framing=Framing(args.spacing or None, args.img_size),
        skip_low=skips[0] if args.skip_low is None else args.skip_low,
        skip_high=skips[1] if args.skip_high is None else args.skip_high,
        every=args.every,
        min_brain=args.min_brain,
        resampling=args.resample,
    )


def axial_slices(scan: Scan) -> int | None:
    """How many a scan has, None where its header cannot be read, which is said with all problems later."""
    try:
        return scan_grid(scan).shape[2]
    except InputError:
        return None


def tasks_of(args: argparse.Namespace, found: Found) -> list[Task]:
    """The scans with their patients and parts; InputError for a table of patients that lists none of the scans."""
    table = read_patients(args.patients) if args.patients else {}
    scans = {scan.name: scan.patient or scan.name for scan in found.scans}
    listed = table.keys() & scans.keys()
    if table and scans and not listed:
        expected = f"the names of scans, such as {next(iter(scans))}"
        raise input_error(args.patients, f"names such as {next(iter(table))}", expected, "correct the table")
    if table and len(listed) < len(scans):
        print(f"{len(scans) - len(listed)} scans are not in {args.patients}: their patients are taken from their names")
    patients = scans | {name: table[name] for name in listed}
    patients, parts = parts_of(args.split or (), patients)
    names = list(patients.values())
    if args.no_labels:
        validation = set()
    elif args.split:
        validation = stated_split(names, parts)
    else:
        validation = split_patients(names, args.val_patients, args.seed)
    kept = [scan for scan in found.scans if scan.name in patients]
    return [Task(scan, patients[scan.name], patients[scan.name] in validation) for scan in kept]


def shared_folders(tasks: Sequence[Task]) -> str | None:
    """What to know where folders that may be patients hold scans of several patients by their names, on both sides of
    the split; None where there are none. A folder of many scans, such as HGG, is none of a patient.
    """
    places = [task.scan.where.absolute() for task in tasks]
    common = os.path.commonpath(places) if places else ""
    inside = defaultdict(list)
    for task, place in zip(tasks, places, strict=True):
        inside[place.relative_to(common).parts[:1]].append(task)
    few = {folder[0]: of_it for folder, of_it in inside.items() if folder and len(of_it) <= MOST_SCANS}
    torn = [name for name, of_it in few.items() if len({task.validation for task in of_it}) > 1]
    if len(few) < len(inside) or not torn:
        return None
    return (
        f"{len(torn)} folders such as {torn[0]} hold scans for training and for validation: where a folder is one "
        "patient, say so by --patients FILE"
    )


def parts_of(tables: Sequence[str], patients: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The patients of the scans that are prepared, and the part of every patient that the tables tell.

    patients: of all scans. Raises InputError for tables of both kinds, several of patients, and lists without a scan.
    """
    lists = {Path(table): list_scans(Path(table)) for table in tables}
    if not any(scans is not None for scans in lists.values()):
        if len(tables) > 1:
            raise input_error("--split", " ".join(tables), "one table of patients, or lists of scans", "pass one table")
        return dict(patients), read_split(tables[0]) if tables else {}
    others = [str(path) for path, scans in lists.items() if scans is None]
    if others:
        found = f"no column {SCANS}, which other files of --split have"
        raise input_error(", ".join(others), found, "lists of scans alone", "correct the paths")
    parts = listed_parts(lists)
    kept = {scan: patient for scan, patient in patients.items() if scan in parts}
    if not kept:
        expected = f"the scans that are there, such as {next(iter(patients))}"
        raise input_error("--split", f"lists of scans such as {next(iter(parts))}", expected, "pass other lists")
    if len(kept) < len(patients):
        print(f"{len(patients) - len(kept)} scans are in none of the lists of --split, and left out")
    if missing := sorted(parts.keys() - patients.keys()):
        print(f"{len(missing)} of {len(parts)} scans in the lists of --split are not there, such as {missing[0]}")
    of_patient: dict[str, str] = {}
    for scan, patient in kept.items():
        if of_patient.setdefault(patient, parts[scan]) != parts[scan]:
            found = f"scans of the patient {patient} for training and for validation"
            raise input_error("--split", found, "one part a patient", "pass other lists, or correct --patients")
    return kept, of_patient


def main(args: argparse.Namespace) -> None:
    """Prepare, then say what was done and how many slices of what there are."""
    check(args)
    if args.out.resolve() == args.data_dir.resolve():
        raise input_error("--out", str(args.out), "another folder than --data_dir", "choose a new one")
    labelled = not (args.healthy or args.no_labels)
    found = find_scans(args.data_dir, args.channels, labelled, without=args.out)
    tasks, choice = tasks_of(args, found), choice_of(args, found)
    people = len({task.patient for task in tasks})
    print(f"{args.data_dir}: {len(tasks)} scans of {people} patients, channels {' '.join(found.channels)}")
    if choice.skip_low or choice.skip_high:
        print(f"The lowest {choice.skip_low} and the highest {choice.skip_high} slices are left out")
    if notice := shared_folders(tasks):
        print(notice)
    if found.foreign:
        print(f"{found.foreign} other files are left alone")
    validation = sorted({task.patient for task in tasks if task.validation})
    split = {"val_patients": args.val_patients, "seed": args.seed, "validation": validation}
    counts, volumes = Counter(), []
    for prepared in tqdm(
        prepare(tasks, args.out, choice, split, args.workers), total=len(tasks), desc="preparing", unit="scan"
    ):
        counts.update(row[3] for row in prepared.rows)
        volumes += prepared.volumes
    for notice in geometry_notices(volumes):
        print(notice)
    if values := values_notice(volumes):
        print(values)
    print(f"{args.out}: " + ", ".join(f"{name} {counts[name]}" for name in (*SPLITS, *LEFT_OUT) if counts[name]))
    if labelled and counts["val_diseased"] and not (counts["train_healthy"] or counts["val_healthy"]):
        print("No slice is without lesion: look whether the segmentations are of lesions, and not of the brain")
    if any(patient_of_scan(task.scan.name) != task.patient for task in tasks):
        manifest = args.out / MANIFEST
        print(f"The names of the slices do not tell the patients, {manifest} does: leave it beside their folders")
    print(f"Look at {args.out / 'contact_sheet.png'}; the geometry of every volume is in {args.out / 'volumes.csv'}")


command = command_of(get_args_parser, main)

if __name__ == "__main__":
    command()
