"""What the benchmark is asked for: its flags, and what they become."""

import argparse
from dataclasses import dataclass

from benchmark.measure import CLOCKS
from bernoulli_diffusion.method import DETECTION_PRESETS, default_steps
from uad.cli.flags import Flags, add, add_switch
from uad.errors import InputError, input_error, missing_flag
from uad.optimizers import OPTIMIZERS
from uad.precision import AMP_MODES

SECTIONS = ("peaks", "detection", "stage1", "stage2", "scaling")
QUALITY_SECTIONS = ("presets", "quality")
RECOMMENDED = DETECTION_PRESETS["recommended"]


@dataclass(frozen=True)
class Options:
    """What is measured and how; --help explains every field. workload: what a child process runs."""

    sections: tuple[str, ...]
    repeats: int
    batch_size: int
    train_batch: int
    optimizer: str
    measured_steps: int
    noise_level: int
    denoise_steps: int
    shifts: int
    cuda_graphs: bool
    img_size: int
    n_channels: int
    ae_load_dir: str | None
    model_path: str | None
    data_dir: str | None
    healthy_dir: str | None
    quality_steps: tuple[int, ...]
    quality_seeds: int
    device: str
    amp: str
    threads: int | None
    clock: str
    quick: bool
    out: str
    workload: str | None


def get_args_parser(description: str) -> Flags:
    """All flags of the benchmark."""
    parser = Flags(description)
    group = parser.add_argument_group("what is measured")
    add(group, "--sections", nargs="+", default=SECTIONS, choices=SECTIONS + QUALITY_SECTIONS, help="parts")
    add(group, "--repeats", type=int, default=5, help="interleaved repeats")
    add(group, "--batch_size", type=int, default=8, help="images at a time in detection")
    add(group, "--train_batch", type=int, default=8, help="images at a time in training")
    add(group, "--optimizer", choices=OPTIMIZERS, default="muon", help="of our trainings")
    add(group, "--measured_steps", type=int, default=5, help="evaluations over which the released detection is timed")
    add(group, "--noise_level", type=int, default=200, help="L of the released detection")
    # As many evaluations as in --preset recommended.
    steps = default_steps(RECOMMENDED["noise_level"], "recommended")
    add(group, "--denoise_steps", type=int, default=steps, help="K of our detection")
    add(group, "--shifts", type=int, default=RECOMMENDED["shifts"], help="copies of an image in our detection")
    add_switch(group, "--cuda_graphs", "CUDA graphs in our detection and stage 2")
    group = parser.add_argument_group("networks")
    add(
        group,
        "--ae_load_dir",
        help="log_dir of a stage-1 run of this project; without it networks are random",
        shown="none",
    )
    add(group, "--model_path", help="stage-2 checkpoint, with --ae_load_dir", shown="none")
    add(group, "--img_size", type=int, default=256, help="of random networks")
    add(group, "--n_channels", type=int, default=4, help="of random networks")
    add_switch(group, "--quick", "tiny random networks")
    group = parser.add_argument_group("quality")
    add(group, "--data_dir", help="slices with masks", shown="none")
    add(group, "--healthy_dir", help="healthy slices, whose pixels count as negatives", shown="none")
    add(group, "--quality_steps", type=int, nargs="+", default=(5, 10, 20, 50, 100, 200), help="values of K")
    add(group, "--quality_seeds", type=int, default=3, help="seeds")
    group = parser.add_argument_group("machine")
    add(group, "--device", default="auto", choices=("auto", "cpu", "cuda"), help="auto: CUDA where there is a device")
    add(group, "--amp", default="auto", choices=AMP_MODES, help="precision of ours")
    add(group, "--threads", type=int, help="threads", shown="torch's default")
    add(group, "--clock", choices=tuple(CLOCKS), default="wall", help="seconds on the wall, or of the CPU")
    add(group, "--out", default="benchmark.json", help="where the numbers go")
    group.add_argument("--workload", help=argparse.SUPPRESS)  # of a child process
    return parser


def options_of(args: argparse.Namespace) -> Options:
    """What the flags say; InputError for values that mean nothing together."""
    options = Options(**vars(args) | {"sections": tuple(args.sections), "quality_steps": tuple(args.quality_steps)})
    needed = []
    if options.ae_load_dir:
        needed = ["model_path"]
    if set(options.sections) & set(QUALITY_SECTIONS):
        needed = ["ae_load_dir", "model_path", "data_dir"]
    for name in needed:
        if getattr(options, name) is None:
            raise InputError(missing_flag(name))
    if not 1 <= options.measured_steps < options.noise_level:
        expected = f"1..{options.noise_level - 1}, below --noise_level"
        raise input_error("--measured_steps", str(options.measured_steps), expected, "change one of the two")
    if options.repeats < 1:
        raise input_error("--repeats", str(options.repeats), "at least 1", "change it")
    return options
