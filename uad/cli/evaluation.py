"""Flags that every script shares which scores result folders, and what they become: Scoring."""

import math
from argparse import Namespace
from dataclasses import dataclass

from uad.cli.flags import Flags, add
from uad.configuration import check_values
from uad.errors import input_error
from uad.neighbours import SIGMA, UNKNOWN_DISTANCE
from uad.report.choosing import EMBEDDED
from uad.report.viewer import CASES

VOLUMES = "volumes"
# A Dice of each is held for every patient.
MOST_THRESHOLDS = 100_000
# In millimetres; no body is longer.
MOST_NEIGHBOURS = 1000.0


@dataclass(frozen=True)
class Scoring:
    """How result folders are scored.

    labels: folder of masks for results that hold none, or None; neighbours: standard deviation in mm over which maps
    are averaged across slices, 0 for each slice alone; bootstrap: resamples of patients; seed: of the bootstrap;
    viewer_cases: images in the page's viewer at most; workers: further processes.
    """

    labels: str | None
    neighbours: float
    bootstrap: int
    seed: int
    viewer_cases: int
    workers: int


def add_evaluation_flags(parser: Flags) -> None:
    """Masks, neighbours, bootstrap and processes."""
    add(parser, "--labels", help="folder of masks to use instead of those in the results", shown="none")
    add_clinical_flags(parser)
    add(parser, "--seed", type=int, default=0, help="seed of the bootstrap")
    add(
        parser,
        "--viewer_cases",
        type=int,
        default=1000,
        help=f"largest number of images in the viewer of report.html, evenly drawn by score; {EMBEDDED} of them are in "
        f"the page itself, the others in {CASES}/ next to it",
    )
    add(parser, "--workers", type=int, default=0, help="additional processes; 0: none")


def add_clinical_flags(parser: Flags) -> None:
    """Neighbours and bootstrap."""
    add(
        parser,
        "--neighbours",
        type=float,
        shown=f"{SIGMA:g}",
        help="standard deviation in mm of the Gaussian by which maps are averaged across the slices of a scan, also "
        f"between --results and --healthy, but not with --maps; slices at unknown distance count as "
        f"{UNKNOWN_DISTANCE:g} mm apart. 0: each slice by itself",
    )
    add(parser, "--bootstrap", type=int, default=1000, help="bootstrap resamples of patients, for the intervals")


def add_threshold_flag(parser: Flags) -> None:
    """The thresholds of the protocol of volumes."""
    add(
        parser,
        "--thresholds",
        nargs=3,
        type=float,
        help=f"with --protocol {VOLUMES}: start, stop (exclusive) and step of the thresholds to choose the best from",
        shown="200 evenly spaced over the range of the scores",
    )


def thresholds_of(args: Namespace) -> tuple[float, ...] | None:
    """Start, stop and step of --thresholds; InputError where they have no meaning or are none."""
    if args.thresholds is None:
        return None
    found = " ".join(f"{number:g}" for number in args.thresholds)
    if args.protocol != VOLUMES:
        raise input_error(
            "--thresholds", f"{found}, with --protocol {args.protocol}", VOLUMES, "leave --thresholds out"
        )
    start, stop, step = args.thresholds
    if not start < stop or not step > 0 or not all(map(math.isfinite, args.thresholds)):
        raise input_error("--thresholds", found, "a start below the stop, and a step above 0", "correct them")
    if (stop - start) / step > MOST_THRESHOLDS:
        raise input_error("--thresholds", found, f"at most {MOST_THRESHOLDS:,} of them", "choose a larger step")
    return start, stop, step


def scoring_of(args: Namespace, neighbours: float = SIGMA) -> Scoring:
    """What the flags say; neighbours: where the flag is not given. InputError for numbers out of range."""
    further = {name: getattr(args, name) for name in ("seed", "viewer_cases", "workers")}
    check_values((f"--{name}", number, "0 or more", number >= 0) for name, number in further.items())
    return Scoring(args.labels, *clinical_of(args, neighbours), **further)


def clinical_of(args: Namespace, neighbours: float = SIGMA) -> tuple[float, int]:
    """Neighbours and resamples, as in Scoring, by the flags of `add_clinical_flags`; InputError as scoring_of."""
    numbers = {"bootstrap": args.bootstrap}
    numbers["neighbours"] = neighbours if args.neighbours is None else args.neighbours
    checks = [(f"--{name}", number, "0 or more", number >= 0) for name, number in numbers.items()]
    far = numbers["neighbours"] > MOST_NEIGHBOURS
    check_values([*checks, ("--neighbours", numbers["neighbours"], f"at most {MOST_NEIGHBOURS:g}", not far)])
    return numbers["neighbours"], numbers["bootstrap"]
