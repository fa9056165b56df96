"""Flags that every script shares which scores result folders."""

from argparse import Namespace

from uad.cli.flags import Flags, add
from uad.configuration import check_values
from uad.scores import IMAGE_SCORES


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


def check_evaluation_flags(args: Namespace) -> None:
    """InputError for numbers out of range."""
    numbers = {name: getattr(args, name) for name in ("bootstrap", "seed", "workers")}
    check_values([(f"--{name}", number, "0 or more", number >= 0) for name, number in numbers.items()])
