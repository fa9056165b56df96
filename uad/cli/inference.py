"""Flags of every detection: how many images at a time, and where the results go."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from uad.cli.flags import add


@dataclass(frozen=True)
class Output:
    """batch_size: images at a time, over all processes; out_dir: the result folder, None for the command's default."""

    batch_size: int
    out_dir: str | None

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
