"""Flags of a training run, and what they become: Run."""

import argparse
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import nn

from uad.checkpoints import CheckpointFiles, newest_state
from uad.cli.flags import add, add_switch, number_or_all
from uad.cli.runtime import precision_of
from uad.configuration import check_values
from uad.data.reading.folder import SliceFolder
from uad.data.training.cache import CachedSlices, cached_slices, found_cache
from uad.data.training.loading import Variation
from uad.distributed import World
from uad.optimizers import OPTIMIZERS
from uad.training import TrainOptions
from uad.training_log import check_tensorboard

# What --cache_dir is where there is to be no cache.
NO_CACHE = "none"


@dataclass(frozen=True)
class Run:
    """A training run, whatever it trains.

    log_dir: its folder, None for the command's default; cache_dir: that of decoded images, which other runs may use,
    None for log_dir, NO_CACHE for none; options: see TrainOptions, amp as asked for; optimizer, lr, weight_decay: of
    every network (lr None: the stage's own); variation: of the training images.
    """

    log_dir: Path | None
    cache_dir: str | None
    options: TrainOptions
    optimizer: str
    lr: float | None
    weight_decay: float
    variation: Variation

    def on(self, world: World, modules: Iterable[nn.Module], files: CheckpointFiles, kind: str) -> "Run":
        """The same run with its precision resolved for these networks, as the run began where `files` holds one.

        InputError where a package is missing that its log needs.
        """
        if self.options.tensorboard:
            check_tensorboard()
        begun = None
        if self.options.amp == "auto" and world.device.type == "cpu":
            state, _ = newest_state(files, world, kind)
            begun = state and state["settings"]["amp"]
        amp = precision_of(self.options.amp, world, modules, training=True, begun=begun)
        return self.in_precision(amp)

    def in_precision(self, amp: str) -> "Run":
        """The same run with its precision resolved."""
        return replace(self, options=replace(self.options, amp=amp))

    def named(self, log_dir: str, lr: float) -> "Run":
        """The same run with what the flags leave to the stage: its folder and learning rate."""
        return replace(self, log_dir=self.log_dir or Path(log_dir), lr=lr if self.lr is None else self.lr)

    def images(
        self, slices: SliceFolder, world: World, earlier: Path | None = None, once: bool = False
    ) -> SliceFolder | CachedSlices:
        """The slices from a cache, which is made where it is not there.

        earlier: an earlier stage's folder, whose cache is used where it has one; once: every slice is read but once or
        twice, for which no cache is made.
        """
        if self.cache_dir == NO_CACHE:
            return slices
        place = Path(self.cache_dir or self.log_dir)
        found = found_cache(slices, [place, *([earlier] if earlier else [])], world)
        if found or once:
            return found or slices
        return cached_slices(slices, place, self.cache_dir is not None, world, self.options.workers)

    def shown(self) -> dict:
        """Folders and options of the loop, as plain values."""
        folders = {"log_dir": str(self.log_dir), "cache_dir": self.cache_dir or str(self.log_dir)}
        return folders | asdict(self.options)

    def settings(self) -> dict:
        """What a rerun in the same folder must repeat, as plain values by the names of the flags."""
        options, variation = self.options, self.variation
        return {
            "batch_size": options.batch_size,
            "seed": options.seed,
            "amp": options.amp,
            "compile": options.compile,
            "clip_norm": options.clip_norm,
            "lr_anneal_steps": options.lr_anneal_steps,
            "optimizer": self.optimizer,
            "lr": self.lr,
            "horizontal_flip": variation.horizontal_flip,
            "augment": variation.augment,
        }


def add_variation_flags(parser: argparse.ArgumentParser) -> None:
    """How training images are varied."""
    group = parser.add_argument_group("variation of the training images")
    add(
        group,
        "--horizontal_flip",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="mirror training images left-right at random",
    )
    add(
        group,
        "--augment",
        type=float,
        default=0.0,
        help="strength of random contrast, gain, shading, sharpness and posture of training images; 1: as much as "
        "between scanners; 0: none, as in the paper",
    )


def add_run_flags(
    parser: argparse.ArgumentParser, log_dir: str, lr: str, decays: bool = False, deferred: str | None = None
) -> None:
    """How a training runs.

    log_dir, lr: what their defaults are, in words; decays: with --weight_decay; deferred: where the defaults of the
    optimizer's numbers come from later, which then are None here.
    """

    def own(value):
        return {"shown": deferred} if deferred else {"default": value}

    group = parser.add_argument_group("training")
    add(group, "--log_dir", help="folder of the run: checkpoints, log, pictures", shown=log_dir)
    add(
        group,
        "--cache_dir",
        help="folder for the decoded training images, 4 bytes per value, which runs on the same images may share; "
        f"{NO_CACHE}: the files are read again in every epoch, with the same result",
        shown="the run's folder",
    )
    add(group, "--batch_size", type=int, **own(8), help="images per step, over all processes together")
    add(
        group,
        "--microbatch",
        type=int,
        default=0,
        help="images processed at a time in each process (gradients accumulate); 0: all",
    )
    add(group, "--train_steps", type=int, **own(120_000), help="total optimizer steps")
    add(group, "--lr", type=float, help="learning rate", shown=lr)
    add(
        group,
        "--optimizer",
        choices=OPTIMIZERS,
        default="adam",
        help="adam; or muon, which needs far fewer steps: orthogonalised momentum for the weights of convolutions and "
        "linear layers, Adam for the rest",
    )
    add(
        group,
        "--lr_anneal_steps",
        type=number_or_all,
        default=0,
        help="learning rates fall linearly to 0 over this many steps, or over all of them; 0: constant",
    )
    if decays:
        add(group, "--weight_decay", type=float, **own(0.0), help="AdamW weight decay")
    add(group, "--clip_norm", type=float, **own(0.0), help="largest gradient norm; 0: no clipping")
    add(
        group,
        "--steps_per_log",
        "--log_interval",
        dest="steps_per_log",
        type=int,
        default=200,
        help="steps between lines of log.jsonl",
    )
    add(
        group,
        "--steps_per_checkpoint",
        "--save_interval",
        dest="steps_per_checkpoint",
        type=int,
        default=10_000,
        help="steps between checkpoints",
    )
    add(
        group,
        "--steps_per_save_output",
        "--steps_per_display_output",
        dest="steps_per_save_output",
        type=int,
        default=5000,
        help="steps between picture grids; 0: none",
    )
    add(group, "--steps_per_eval", type=int, default=1000, help="steps between evaluations on --val_dir")
    add(group, "--keep", type=int, default=3, help="number of latest checkpoints to keep")
    add(group, "--keep_every", type=int, default=0, help="also keep checkpoints at multiples of this step; 0: none")
    add_switch(group, "--tensorboard", "also log to TensorBoard (pip install tensorboard)")


def run_of(args: argparse.Namespace, ema_beta: float, ema_every: int) -> Run:
    """What the flags say; InputError for values that mean nothing."""
    check_values(
        [
            ("--augment", args.augment, "0 or more", args.augment >= 0),
            ("--lr", args.lr, "above 0", args.lr is None or args.lr > 0),
        ]
    )
    anneal = args.lr_anneal_steps
    options = TrainOptions(
        train_steps=args.train_steps,
        batch_size=args.batch_size,
        seed=args.seed,
        amp=args.amp,
        compile=args.compile,
        microbatch=args.microbatch,
        clip_norm=args.clip_norm,
        ema_beta=ema_beta,
        ema_every=ema_every,
        lr_anneal_steps=args.train_steps if anneal == "all" else anneal,
        log_every=args.steps_per_log,
        save_every=args.steps_per_checkpoint,
        sample_every=args.steps_per_save_output,
        eval_every=args.steps_per_eval if getattr(args, "val_dir", None) else 0,
        keep=args.keep,
        keep_every=args.keep_every,
        workers=args.workers,
        tensorboard=args.tensorboard,
    )
    return Run(
        log_dir=Path(args.log_dir) if args.log_dir else None,
        cache_dir=args.cache_dir,
        options=options,
        optimizer=args.optimizer,
        lr=args.lr,
        weight_decay=getattr(args, "weight_decay", 0.0),
        variation=Variation(args.horizontal_flip, args.augment, args.seed),
    )
