"""Flags that every script shares which scores result folders, and what they become: Scoring."""

from argparse import Namespace
from dataclasses import dataclass

from uad.cli.flags import Flags, add
from uad.configuration import check_values
from uad.scores import IMAGE_SCORES


@dataclass(frozen=True)
class Scoring:
    """How result folders are scored.

    labels: folder of masks for results that hold none, or None; image_score: one of uad.scores.IMAGE_SCORES;
    bootstrap: resamples of patients; seed: of the bootstrap; workers: further processes.
    """

    labels: str | None
    image_score: str
    bootstrap: int
    seed: int
    workers: int


def add_evaluation_flags(parser: Flags) -> None:
    """Masks, image scores, bootstrap and processes."""
    add(parser, "--labels", help="folder of masks, for results that hold none", shown="none")
    add(
        parser,
        "--image_score",
        default="method",
        choices=IMAGE_SCORES,
        help="what scores an image as a whole. map: the highest 1 %% of its map; method: the highest 3 %% of the "
        "evidence where the map is made with evidence and without a polarity, else as map",
    )
    add(parser, "--bootstrap", type=int, default=1000, help="resamples of patients for the intervals")
    add(parser, "--seed", type=int, default=0, help="of the bootstrap")
    add(parser, "--workers", type=int, default=0, help="further processes; 0: none")


def scoring_of(args: Namespace) -> Scoring:
    """What the flags say; InputError for numbers out of range."""
    numbers = {name: getattr(args, name) for name in ("bootstrap", "seed", "workers")}
    check_values([(f"--{name}", number, "0 or more", number >= 0) for name, number in numbers.items()])
    return Scoring(args.labels, args.image_score, **numbers)
