"""Leave-groups-out validation: train without a hospital, test on it, for every hospital and seed.

    python scripts/cross_validate.py --healthy_dir DIR --diseased_dir DIR --group 'TCGA_([A-Z]+)_' --out DIR \\
        --stage1_flags '--size small --amp --n_channels 3'
    python scripts/cross_validate.py --healthy_dir NORMAL --diseased_dir AMD --folds 2 --seeds 0 1 2 3 4 --out DIR \\
        --stage1_flags '--size small --amp --dataset OCT'
    python scripts/cross_validate.py --data_dir BMAD/Brain --stage1_flags '--size small --amp --n_channels 1' --out DIR

Results on one split of a few dozen patients vary as much as most methods differ. Here both stages are trained on the
healthy slices of all groups except those left out, and tested on the diseased slices (masks, if any, in
`<diseased_dir>_labels`) and healthy slices of the groups left out. Diseased slices of groups without healthy ones are
tested in every fold. For a benchmark as it was released (--data_dir), the healthy images are those of its part train,
the diseased ones those of test.

Every step is one of the project's commands, printed as you would type it. Finished steps are skipped, interrupted ones
continue. Written to --out: folds/ (links), logs/, results/, summary.md, summary.json.
"""

import argparse
import re
import shlex
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from uad.cli.command import command_of
from uad.cli.data import add_layout_flags
from uad.cli.flags import Flags, add, require
from uad.cli.provenance import command_line
from uad.cli.steps import SCRIPTS, STAGE1, Step, check_flags, run_steps
from uad.configuration import check_values
from uad.data.preparing.folds import DISEASED, HEALTHY, TRAIN, Fold, folds_of, groups_of, link_fold, random_parts
from uad.data.reading.checks import data_hash
from uad.data.reading.groups import TEST
from uad.data.reading.groups import TRAIN as TRAINING
from uad.data.reading.listing import Listing
from uad.data.reading.opening import check_part_given, patients_of_all
from uad.data.reading.released import Place, Released, list_images
from uad.errors import InputError, input_error
from uad.evaluation.tables import Table
from uad.files import read_json, write_csv, write_json, write_text

# What is reported of a fold, with the metric's name in summary.json and in the table.
REPORTED = {
    "ap_with_healthy": "AP",
    "best_dice_with_healthy": "best Dice",
    "image_auroc": "image AUROC",
}


@dataclass(frozen=True)
class Plan:
    """What is validated: folders, folds by seed, and further flags of the commands; patients: table of the patients."""

    out: Path
    seeds: tuple[int, ...]
    folds: dict[int, list[Fold]]
    stage1: str
    stage2: str
    detection: str
    patients: Path | None = None


def get_args_parser() -> Flags:
    """The flags of the validation."""
    parser = Flags(__doc__)
    add(parser, "--healthy_dir", help="healthy slices", shown="required, or --data_dir")
    add(parser, "--diseased_dir", help="slices with lesions, with or without masks", shown="required, or --data_dir")
    add(parser, "--data_dir", help="instead of both, a benchmark as released, see data/README.md", shown="none")
    add_layout_flags(parser, "--data_dir")
    add(parser, "--out", help="output folder; run again to continue", shown="required")
    group = parser.add_argument_group("groups")
    add(group, "--group", help="regular expression; its match in a name is the group", shown="the patient")
    add(group, "--groups", nargs="+", help="groups to leave out, one at a time", shown="every group, with --group")
    add(group, "--folds", type=int, help="or leave out random parts, this many, new for every seed", shown="5")
    add(
        group,
        "--patients",
        help="table of the patients, CSV or TSV with columns name, patient",
        shown="manifest.csv next to folders made by prepare_mri.py; otherwise taken from the file names",
    )
    add(parser, "--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of training, and of random parts")
    group = parser.add_argument_group("commands")
    add(
        group,
        "--stage1_flags",
        help="flags of train_ae_dist.py, in quotes, with what the images are: --dataset or --n_channels",
        shown="required",
    )
    add(group, "--stage2_flags", default="--size small --amp", help="flags of latent_train.py, in quotes")
    add(group, "--detection_flags", default="--amp --batch_size 32", help="flags of latent_sample_anomaly.py")
    return parser


def plan_of(args: argparse.Namespace) -> Plan:
    """What the flags say, with the folds' folders made; InputError for what cannot be."""
    require(args, "out", "stage1_flags")
    check_values([("--folds", args.folds, "2 or more", args.folds is None or args.folds > 1)])
    if args.folds and args.groups:
        raise input_error("--folds", f"{args.folds}, with --groups", "one of the two", "leave one of them out")
    out = Path(args.out).resolve()
    places = places_of(args)
    healthy, diseased = listings_of(places)
    pattern, patients = _pattern(args.group), patients_of_all(places, args.patients)
    groups = [groups_of(each.slices, pattern, patients) for each in (healthy, diseased)]
    folds, contents = {}, " ".join(map(data_hash, places))
    for seed in args.seeds:
        parts = _parts(args, sorted(set(groups[0].values())), seed)
        names = [part[0] if len(part) == 1 else f"{number}of{len(parts)}" for number, part in enumerate(parts, 1)]
        folds[seed] = folds_of(*groups, parts, names)
        for fold in folds[seed]:
            check_images(out / "folds" / f"seed{seed}" / f"{fold.name}.json", fold, contents)
            link_fold(_folder(out, seed, fold), fold, healthy, diseased)
    table = out / "patients.csv" if patients else None
    if table:
        write_csv(table, ("name", "patient"), sorted(patients.items()))
    return Plan(out, tuple(args.seeds), folds, args.stage1_flags, args.stage2_flags, args.detection_flags, table)


def check_images(path: Path, fold: Fold, contents: str) -> None:
    """Write which images a fold has; InputError where it was begun with others.

    contents: tells whether files of images or masks have been replaced since; folds of earlier versions did not.
    """
    images = {TRAIN: sorted(fold.train), HEALTHY: sorted(fold.healthy), DISEASED: sorted(fold.diseased)}
    there = read_json(path) if path.is_file() else images
    for part, names in images.items():
        if names != there[part]:
            changed = sorted(set(names) ^ set(there[part]))
            found = f"{len(changed)} images of {part} came or went since the fold was begun, such as {changed[0]}"
            raise input_error(f"fold {fold.name}", found, "the same images", "choose another --out")
    if there.get("contents", contents) != contents:
        found = "images or masks that were replaced, added or removed since the fold was begun"
        raise input_error(f"fold {fold.name}", found, "the same files", "choose another --out")
    write_json(path, images | {"contents": contents})


def places_of(args: argparse.Namespace) -> tuple[Place, Place]:
    """Where the healthy and the diseased images lie; InputError where this is not said, or said twice."""
    if args.data_dir is None:
        require(args, "healthy_dir", "diseased_dir")
        check_part_given(args.layout, args.contrast, args.data_dir, "--data_dir")
        return Path(args.healthy_dir).resolve(), Path(args.diseased_dir).resolve()
    if args.healthy_dir or args.diseased_dir:
        found = f"{args.data_dir}, with --healthy_dir or --diseased_dir"
        raise input_error("--data_dir", found, "one of the two ways", "leave --data_dir out, or the two others")
    root = str(Path(args.data_dir).resolve())
    return tuple(Released(root, part, args.layout, args.contrast) for part in (TRAINING, TEST))


def listings_of(places: tuple[Place, Place]) -> tuple[Listing, Listing]:
    """The healthy images and the diseased ones, of a release's part `test` those that it calls so; InputError with all
    that is wrong in them.
    """
    healthy, diseased = _sound(*map(list_images, places))
    if not isinstance(places[1], Released):
        return healthy, diseased
    names = [name for name in diseased.slices if diseased.diseased.get(name)]
    if not names:
        found = "no image that the release calls diseased in its part test"
        raise input_error(places[1].root, found, "diseased images", "name folders: --healthy_dir and --diseased_dir")
    masks = {name: diseased.masks[name] for name in names if name in diseased.masks}
    return healthy, diseased._replace(slices={name: diseased.slices[name] for name in names}, masks=masks)


def _sound(*listings: Listing) -> tuple[Listing, ...]:
    """The listings; InputError with all that is wrong in them."""
    if problems := [problem for listing in listings for problem in listing.problems]:
        raise InputError(problems)
    return listings


def _pattern(text: str | None) -> re.Pattern | None:
    try:
        return re.compile(text) if text else None
    except re.error as error:
        raise input_error("--group", f"{text!r}: {error}", "a regular expression", "correct it") from error


def _parts(args: argparse.Namespace, known: Sequence[str], seed: int) -> list[list[str]]:
    """The groups that are left out together, by fold."""
    unknown = sorted(set(args.groups or ()) - set(known))
    if unknown:
        raise input_error("--groups", ", ".join(unknown), f"of {', '.join(known[:20])}", "correct them, or --group")
    if args.groups or (args.group and not args.folds):
        return [[group] for group in args.groups or known]
    return random_parts(known, args.folds or 5, seed)


def _folder(out: Path, seed: int, fold: Fold) -> Path:
    return out / "folds" / f"seed{seed}" / fold.name


def steps_of(plan: Plan, seed: int, fold: Fold) -> list[Step]:
    """The commands of a fold, in order."""
    name, data = f"{fold.name}, seed {seed}", _folder(plan.out, seed, fold)
    run, results = plan.out / "logs" / f"seed{seed}" / fold.name, _results(plan, seed, fold)
    shared = f"--seed {seed}" + (f" --patients {_word(plan.patients)}" if plan.patients else "")
    both = f"--data_dir {_word(data / TRAIN)} {shared}"

    def detection(part: str) -> Step:
        folders = f"--data_dir {_word(data / part)} --ae_load_dir {_word(run)} --out_dir {_word(results / part)}"
        words = f"{folders} {shared} {plan.detection}"
        return Step(f"{name}: detection on {part}", SCRIPTS / "latent_sample_anomaly.py", words)

    return [
        Step(f"{name}: stage 1", STAGE1, f"{both} --log_dir {_word(run)} {plan.stage1}"),
        Step(f"{name}: stage 2", SCRIPTS / "latent_train.py", f"{both} --ae_load_dir {_word(run)} {plan.stage2}"),
        detection(HEALTHY),
        detection(DISEASED),
        Step(
            f"{name}: evaluation",
            SCRIPTS / "evaluation.py",
            f"--results {_word(results / DISEASED)} --healthy {_word(results / HEALTHY)} --protocol clinical "
            f"--out {_word(results)}",
        ),
    ]


def _word(path: Path) -> str:
    return shlex.quote(str(path))


def _results(plan: Plan, seed: int, fold: Fold) -> Path:
    return plan.out / "results" / f"seed{seed}" / fold.name


def main(args: argparse.Namespace) -> None:
    """Run what is not done, then gather."""
    plan = plan_of(args)
    check_flags(steps_of(plan, plan.seeds[0], plan.folds[plan.seeds[0]][0]))
    rows = []
    for seed in plan.seeds:
        for fold in plan.folds[seed]:
            stamps = plan.out / "steps" / f"seed{seed}" / fold.name
            run_steps(steps_of(plan, seed, fold), stamps, "the same command")
            rows.append(row_of(plan, seed, fold))
            write(plan.out, rows)
    print(f"{(plan.out / 'summary.md').read_text(encoding='utf-8')}\nEverything is in {plan.out}")


def write(out: Path, rows: Sequence[dict]) -> None:
    """What is known of the folds that are done, as tables and as numbers."""
    means = means_of(rows)
    header = ["fold", "seed", "trained on", "healthy", "diseased", *REPORTED.values()]
    lines = [
        [row["fold"], *(str(row[key]) for key in ("seed", "trained_on", "healthy", "diseased"))]
        + [f"{row[name]:.3f}" if name in row else f"n/a ({row['undefined'][name]})" for name in REPORTED]
        for row in rows
    ]
    summary = [
        [REPORTED[name], f"{each['mean']:.3f}", _deviation(each), f"{each['worst']:.3f}", each["worst_fold"]]
        for name, each in means.items()
    ]
    tables = [
        Table("Folds", header, lines),
        Table(
            "Over folds and seeds",
            ["metric", "mean", "deviation over seeds", "worst fold", "which"],
            summary,
            "Mean over folds of the means over seeds; random parts are new for every seed, and each is a fold of its "
            "own. The deviation is that of the mean over folds. Pixels are those of the diseased and the healthy "
            "slices left out. A metric that is undefined in a fold has no mean.",
        ),
    ]
    write_text(out / "summary.md", "\n".join(table.markdown() for table in tables))
    write_json(out / "summary.json", {"command": command_line(), "folds": list(rows), "means": means})


def _deviation(found: dict) -> str:
    """The deviation over seeds of a metric, which a single seed does not have."""
    return "n/a (one seed)" if found["deviation"] is None else f"{found['deviation']:.3f}"


def means_of(rows: Sequence[dict]) -> dict[str, dict]:
    """Mean, deviation over seeds (None for a single one) and worst fold of every metric that all rows have.

    A fold that leaves out other patients for every seed, as random parts do, counts as one fold for each.
    """
    parts = defaultdict(set)
    for row in rows:
        parts[row["fold"]].add(tuple(row["left_out"]))
    means = {}
    for name in REPORTED:
        if not all(name in row for row in rows):
            continue
        by_fold, by_seed = defaultdict(list), defaultdict(list)
        for row in rows:
            changing = len(parts[row["fold"]]) > 1
            by_fold[f"{row['fold']}, seed {row['seed']}" if changing else row["fold"]].append(row[name])
            by_seed[row["seed"]].append(row[name])
        folds = {fold: statistics.mean(values) for fold, values in by_fold.items()}
        seeds = [statistics.mean(values) for values in by_seed.values()]
        worst = min(folds, key=folds.get)
        means[name] = {
            "mean": statistics.mean(folds.values()),
            "deviation": statistics.stdev(seeds) if len(seeds) > 1 else None,
            "worst": folds[worst],
            "worst_fold": worst,
            "folds": folds,
        }
    return means


def row_of(plan: Plan, seed: int, fold: Fold) -> dict:
    """A fold's numbers, and why those that its data do not allow, such as AP without masks, are undefined."""
    clinical = read_json(_results(plan, seed, fold) / "summary.json")["clinical"]
    # The method stands first; after it what it is compared with.
    metrics = next(iter(clinical["rows"].values()))["metrics"]
    known = {name: metrics[name]["value"] for name in REPORTED if metrics[name]["value"] is not None}
    undefined = {name: metrics[name]["reason"] for name in REPORTED if name not in known}
    counts = {"healthy": len(fold.healthy), "diseased": len(fold.diseased), "trained_on": len(fold.train)}
    return {"seed": seed, "fold": fold.name, "left_out": fold.left_out, **counts, **known, "undefined": undefined}


command = command_of(get_args_parser, main)

if __name__ == "__main__":
    command()
