"""The command-line flags that all commands share, in groups; every command takes all groups of its method.

A flag that shapes a network has the parser default None: training fills in the default that its help names, and later
stages take the checkpoint's value; `reconcile` refuses a flag that contradicts it.
"""

import argparse
import shlex
import sys
from collections.abc import Mapping

from uad.checkpoints import versions
from uad.data.reading.checks import data_hash
from uad.data.reading.normalise import NORMALISATIONS
from uad.data.training.loading import Variation
from uad.errors import InputError, Problem, input_error
from uad.optimizers import MATRIX_LR, OPTIMIZERS
from uad.precision import AMP_MODES
from uad.training import TrainOptions

DATASETS = ("brats", "OCT", "custom", "chexpert")
CHANNELS = {"brats": 4, "OCT": 1}
CHANNEL_NAMES = {"brats": ("t1", "t1ce", "t2", "flair")}
DISPLAY_CHANNEL = {"brats": 3}
# What stands between a flag's help and its default.
DEFAULT = " (default: "


def provenance(dataset: str, data_dir: str) -> dict:
    """What every run.json ends with: display channel and channel names of the data set, if any, hash of the folder's
    files, versions, command.
    """
    channel, names = DISPLAY_CHANNEL.get(dataset), CHANNEL_NAMES.get(dataset)
    return {
        **({} if channel is None else {"display_channel": channel}),
        **({} if names is None else {"channel_names": list(names)}),
        "data_hash": data_hash(data_dir),
        "versions": versions(),
        "command": shlex.join(sys.argv),
    }


class Flags(argparse.ArgumentParser):
    """A parser that knows no abbreviations, so that a mistyped flag is an error, and shows defaults.

    presets: name -> defaults of other flags, the same flags in each; the first one holds unless --preset names another.
    """

    def __init__(self, description: str, presets: Mapping[str, Mapping] | None = None):
        super().__init__(
            description=description, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        self.presets = presets or {}
        if self.presets:
            text = "defaults of other flags, shown with them; a flag that is given goes before"
            add(self, "--preset", default=next(iter(self.presets)), choices=tuple(self.presets), help=text)

    def parse_known_args(self, args=None, namespace=None):
        """As argparse does, with the chosen preset's defaults."""
        if self.presets:
            chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
            chooser.add_argument("--preset", default=self.get_default("preset"))
            # An unknown name changes nothing here and is refused below.
            self.default_to(self.presets.get(chooser.parse_known_args(args)[0].preset, {}))
        return super().parse_known_args(args, namespace)

    def default_to(self, values: Mapping) -> None:
        """Give flags other defaults, and show these in their help."""
        actions = {action.dest: action for action in self._actions}
        for name, value in values.items():
            actions[name].default = value
            actions[name].help = actions[name].help.rsplit(DEFAULT, 1)[0] + f"{DEFAULT}{value})"


def add(group, *names: str, default=None, help: str, shown=None, **options) -> None:
    """Add a flag whose help ends with its default (`shown` where that is not the parser's)."""
    value = shown if shown is not None else default
    text = " ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
    group.add_argument(*names, default=default, help=f"{help}{DEFAULT}{text})", **options)


def add_switch(group, name: str, help: str) -> None:
    """Add a flag without a value, off by default."""
    group.add_argument(name, action="store_true", help=f"{help}{DEFAULT}off)")


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Where the images lie and how they are read."""
    group = parser.add_argument_group("data")
    add(group, "--data_dir", help="folder of slices; masks are taken from <folder>_labels", shown="required")
    add(
        group,
        "--dataset",
        default="custom",
        choices=DATASETS,
        help="brats: 4 channels; OCT: 1 channel; custom and its historical alias chexpert: --n_channels says",
    )
    add(group, "--n_channels", type=int, help="image channels", shown="4 for brats, 1 for OCT")
    add(group, "--img_size", type=int, help="images are resized to this square, in pixels", shown=256)
    add(
        group,
        "--normalise",
        choices=NORMALISATIONS,
        help="intensities to [0, 1], per slice. joint: minimum..maximum over all channels together, as the released "
        "code does; percentile: per channel, 99.5th percentile of the foreground to 1; foreground: per channel, "
        "median and interquartile range; tissue: per channel, median of the tissue's interior to 0.4, air to 0, with "
        "or without skull; none: already in [0, 1]",
        shown="tissue",
    )
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
        help="training images get random contrast, gain, shading, sharpness and posture, so strongly; 1: as much as "
        "between scanners; 0: none, as in the paper",
    )
    add(group, "--val_dir", help="folder of healthy slices for --steps_per_eval", shown="none")
    add(
        group,
        "--test_dir",
        help="folder whose patients must not be among the training patients",
        shown="none",
    )
    add_switch(group, "--check_data", "check the folders, report, and stop")
    add(group, "--num_samples", type=int, default=0, help="use only so many images, evenly spread; 0: all")
    add(
        group,
        "--cache_gib",
        type=float,
        default=2.0,
        help="keep decoded training images in memory up to so many GiB",
    )


def add_runtime_flags(parser: argparse.ArgumentParser) -> None:
    """Device, precision, randomness, processes."""
    group = parser.add_argument_group("runtime")
    add(
        group,
        "--device",
        default="auto",
        choices=("auto", "cpu", "cuda"),
        help="auto: CUDA where there is a device",
    )
    add(
        group,
        "--amp",
        nargs="?",
        const="auto",
        default="off",
        choices=AMP_MODES,
        help="mixed precision; alone: bf16 where the device has it, else fp16 on CUDA and off on a CPU",
    )
    add_switch(group, "--compile", "compile the networks (torch.compile): worth its minutes in long runs on a GPU")
    add(group, "--seed", type=int, default=0, help="seed of all randomness")
    add(group, "--workers", type=int, default=2, help="worker processes that read images")
    group.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)


def add_run_flags(parser: argparse.ArgumentParser, deferred: str | None = None) -> None:
    """How a training runs; shared by both stages and all methods.

    deferred: where the defaults of an optimizer's numbers come from later, which then are None here.
    """

    def own(value):
        return {"shown": deferred} if deferred else {"default": value}

    group = parser.add_argument_group("training")
    add(group, "--log_dir", help="folder of the run: checkpoints, log, pictures", shown="see the description")
    add(group, "--batch_size", type=int, **own(8), help="images per step, over all processes together")
    add(
        group,
        "--microbatch",
        type=int,
        default=0,
        help="images at a time in a process (gradients accumulate); 0: all",
    )
    add(group, "--train_steps", type=int, **own(120_000), help="optimizer steps in all")
    add(
        group,
        "--lr",
        type=float,
        help="learning rate",
        shown=deferred or "base_lr * batch_size in stage 1, 1e-4 in stage 2",
    )
    add(
        group,
        "--optimizer",
        choices=OPTIMIZERS,
        default="adam",
        help="adam; or muon, which learns in far fewer steps: orthogonalised momentum for the weights of convolutions "
        "and linear layers, Adam for the rest",
    )
    add(group, "--matrix_lr", type=float, default=MATRIX_LR, help="learning rate of muon's orthogonalised updates")
    add(
        group,
        "--lr_anneal_steps",
        type=int,
        default=0,
        help="the learning rates fall linearly to 0 over so many; 0: no",
    )
    add(group, "--weight_decay", type=float, **own(0.0), help="AdamW weight decay (unused by stage 1)")
    add(group, "--clip_norm", type=float, **own(0.0), help="largest gradient norm; 0: not clipped")
    add(
        group,
        "--steps_per_log",
        "--log_interval",
        dest="steps_per_log",
        type=int,
        default=200,
        help="steps between two lines of log.jsonl",
    )
    add(
        group,
        "--steps_per_checkpoint",
        "--save_interval",
        dest="steps_per_checkpoint",
        type=int,
        default=10_000,
        help="steps between two checkpoints",
    )
    add(
        group,
        "--steps_per_save_output",
        "--steps_per_display_output",
        dest="steps_per_save_output",
        type=int,
        default=5000,
        help="steps between two picture grids; 0: none",
    )
    add(group, "--steps_per_eval", type=int, default=1000, help="steps between two evaluations on --val_dir")
    add(group, "--keep", type=int, default=3, help="the last so many checkpoints stay")
    add(group, "--keep_every", type=int, default=0, help="checkpoints at multiples of this stay too; 0: none")
    add_switch(group, "--tensorboard", "also log to TensorBoard (pip install tensorboard)")


def add_shared_flags(parser: argparse.ArgumentParser, deferred: str | None = None) -> None:
    """The groups that every training and every detection takes; deferred as in add_run_flags."""
    add_data_flags(parser)
    add_run_flags(parser, deferred)
    add_runtime_flags(parser)


def n_channels_of(args: argparse.Namespace) -> int:
    """`--n_channels`, or what the data set implies; an InputError where they contradict or none is known."""
    implied = CHANNELS.get(args.dataset)
    if args.n_channels is None and implied is None:
        raise input_error(
            "--n_channels",
            f"not given, with --dataset {args.dataset}",
            "the number of channels",
            "pass --n_channels",
        )
    if args.n_channels is not None and implied is not None and args.n_channels != implied:
        raise input_error(
            "--n_channels",
            f"{args.n_channels}, with --dataset {args.dataset}",
            f"{implied}",
            "leave it out, or use --dataset custom",
        )
    return args.n_channels or implied


def reading_of(args: argparse.Namespace) -> dict:
    """How images are read, with defaults filled in: what checkpoints keep as `data` and later stages take from them."""
    return {
        "dataset": args.dataset,
        "n_channels": n_channels_of(args),
        "img_size": args.img_size or 256,
        "normalise": args.normalise or "tissue",
    }


def require(args: argparse.Namespace, *names: str) -> None:
    """An InputError naming every one of these flags that is missing."""
    problems = [
        Problem(f"--{name}", "not given", "a value", f"pass --{name}; --help explains it")
        for name in names
        if getattr(args, name) is None
    ]
    if problems:
        raise InputError(problems)


def filled(args: argparse.Namespace, defaults: Mapping) -> dict:
    """The flags named in `defaults`, with the default where a flag was not given; lists become tuples."""
    given = {name: getattr(args, name) for name in defaults}
    chosen = {name: defaults[name] if value is None else value for name, value in given.items()}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in chosen.items()}


def reconcile(args: argparse.Namespace, config: Mapping, source) -> None:
    """An InputError for every flag given that contradicts the checkpoint's configuration."""
    problems = []
    for name, saved in config.items():
        given = getattr(args, name, None)
        if given is None:
            continue
        same = tuple(given) == tuple(saved) if isinstance(saved, (list, tuple)) else given == saved
        if not same:
            problems.append(
                Problem(
                    f"--{name}",
                    f"{given}, while the checkpoint has {saved}",
                    f"the configuration of {source}",
                    f"leave --{name} out, or name another checkpoint",
                )
            )
    if problems:
        raise InputError(problems)


def variation_of(args: argparse.Namespace) -> Variation:
    """How the flags vary training images; an InputError for a negative strength."""
    if not args.augment >= 0:
        raise input_error("--augment", str(args.augment), "0 or more", "change it")
    return Variation(args.horizontal_flip, args.augment, args.seed)


def train_options(args: argparse.Namespace, amp: str, ema_beta: float, ema_every: int) -> TrainOptions:
    """The training loop's options from the flags; amp is resolved (off, bf16 or fp16)."""
    return TrainOptions(
        train_steps=args.train_steps,
        batch_size=args.batch_size,
        seed=args.seed,
        amp=amp,
        compile=args.compile,
        microbatch=args.microbatch,
        clip_norm=args.clip_norm,
        ema_beta=ema_beta,
        ema_every=ema_every,
        lr_anneal_steps=args.lr_anneal_steps,
        log_every=args.steps_per_log,
        save_every=args.steps_per_checkpoint,
        sample_every=args.steps_per_save_output,
        eval_every=args.steps_per_eval if args.val_dir else 0,
        keep=args.keep,
        keep_every=args.keep_every,
        workers=args.workers,
        tensorboard=args.tensorboard,
    )
