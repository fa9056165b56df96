"""What every detection does: how many images at a time, where the results go, and saying where they lie."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from uad.cli.flags import add
from uad.cli.runtime import Runtime
from uad.configuration import check_values
from uad.data.reading.folder import SliceFolder
from uad.distributed import World
from uad.inference import Method, detect_folder, result_writer


@dataclass(frozen=True)
class Output:
    """batch_size: images at a time, over all processes; out_dir: the result folder, None for the command's default."""

    batch_size: int
    out_dir: str | None

    def __post_init__(self):
        """InputError for a number that means nothing."""
        check_values([("--batch_size", self.batch_size, "1 or more", self.batch_size >= 1)])

    def folder(self, default: Path) -> Path:
        """The result folder."""
        return Path(self.out_dir) if self.out_dir else default


def add_output_flags(parser: argparse.ArgumentParser) -> None:
    """--batch_size and --out_dir."""
    group = parser.add_argument_group("output")
    add(group, "--batch_size", type=int, default=8, help="images at a time, over all processes together")
    add(group, "--out_dir", help="result folder", shown="see the description")


def output_of(args: argparse.Namespace) -> Output:
    """What the flags say."""
    return Output(args.batch_size, args.out_dir)


def detect(
    method: Method, slices: SliceFolder, out_dir: Path, info: dict, share: int, runtime: Runtime, world: World
) -> None:
    """Run a method on all images, save what it gives, and say how to score it.

    info: of run.json; share: images at a time in this process.
    """
    writer = result_writer(out_dir, info, world)
    detect_folder(method, slices, writer, world, share, runtime.seed, runtime.workers)
    if world.is_main:
        print(f"{len(slices)} images in {out_dir}; score them with: python scripts/evaluation.py --results {out_dir}")
