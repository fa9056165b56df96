"""What every detection does: how many images at a time, where the results go, and saying where they lie."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from uad.cli.flags import add
from uad.cli.runtime import Runtime
from uad.configuration import check_values
from uad.data.reading.folder import SliceFolder
from uad.distributed import World
from uad.inference import MANY_IMAGES, Method, detect_folder, result_writer, what_to_keep
from uad.results import KEPT


@dataclass(frozen=True)
class Output:
    """batch_size: images at a time, over all processes; out_dir: the result folder, None for the command's default;
    save: what is kept, one of uad.results.KEPT, None for what the number of images says.
    """

    batch_size: int
    out_dir: str | None
    save: str | None

    def __post_init__(self):
        """InputError for a number that means nothing."""
        check_values([("--batch_size", self.batch_size, "1 or more", self.batch_size >= 1)])

    def folder(self, default: Path) -> Path:
        """The result folder."""
        return Path(self.out_dir) if self.out_dir else default

    def facts(self, out_dir: Path, slices: SliceFolder) -> dict:
        """What run.json says of the result folder itself."""
        return {"save": what_to_keep(out_dir, self.save, len(slices))}


def add_output_flags(parser: argparse.ArgumentParser) -> None:
    """--batch_size, --out_dir and --save."""
    group = parser.add_argument_group("output")
    add(group, "--batch_size", type=int, default=8, help="images at a time, over all processes together")
    add(group, "--out_dir", help="result folder", shown="see the description")
    add(
        group,
        "--save",
        choices=KEPT,
        help="what is saved for each image. all: everything; maps: anomaly map, reconstruction, label and arrays "
        "coarser than the map; evaluation then has no PSNR, raw intensity or other scores",
        shown=f"all below {MANY_IMAGES:,} images, else maps; an existing result folder keeps its own choice",
    )


def add_model_flag(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """--model, a trained pair, see uad.application.models, and --model_path; several: of which there may be several."""
    add(
        parser,
        "--model",
        type=Path,
        required=True,
        help="folder of a stage-1 run with its stage 2 inside, or the name of a shipped model, see models/README.md",
    )
    add_model_path_flag(parser, several, "the newest in the folder bernoulli_diffusion of --model")


def add_model_path_flag(group, several: bool, shown: str) -> None:
    """--model_path, a list of files; shown: what the help calls the default."""
    more = ", or several whose flip probabilities are averaged" if several else ""
    add(group, "--model_path", nargs="+" if several else 1, help=f"stage-2 checkpoint{more}", shown=shown)


def add_sides_flag(group, **default) -> None:
    """--compare_sides; default: the flag's default, or what is shown as such."""
    add(
        group,
        "--compare_sides",
        action=argparse.BooleanOptionalAction,
        help="reduce scores where the mirrored position scores high as well; for anatomy with left-right symmetry, "
        "such as the head",
        **default,
    )


def add_contrast_flag(group, **default) -> None:
    """--match_contrast; default: as of add_sides_flag."""
    add(
        group,
        "--match_contrast",
        action=argparse.BooleanOptionalAction,
        help="move the contrast of each image halfway towards that of the training images, for other scanners and "
        "slices at other levels; models trained with --normalise tissue store that contrast",
        **default,
    )


def output_of(args: argparse.Namespace) -> Output:
    """What the flags say."""
    return Output(args.batch_size, args.out_dir, args.save)


def detect(
    method: Method,
    slices: SliceFolder,
    out_dir: Path,
    info: dict,
    compare_sides: bool,
    share: int,
    runtime: Runtime,
    world: World,
) -> None:
    """Run a method on all images, save what it gives, and say how to score it.

    info: of run.json; compare_sides: see uad.sides; share: images at a time in this process.
    """
    writer = result_writer(out_dir, info, world)
    detect_folder(method, slices, writer, world, share, runtime.seed, runtime.workers, compare_sides)
    if world.is_main:
        print(f"{len(slices)} images in {out_dir}; score them with: python scripts/evaluation.py --results {out_dir}")
