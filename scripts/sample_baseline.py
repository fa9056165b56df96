"""Detection by one of the comparison methods.

    python scripts/sample_baseline.py --method anoddpm --data_dir data/brats/val_diseased --log_dir logs/anoddpm_brats
Several GPUs: with torchrun, as for the main method; the images are shared.

The networks and the way images are read come from the checkpoint: --model_path, or the newest of the method's last
stage in --log_dir (default logs/<method>_<dataset>). Written to --out_dir (default results/<run>_<folder>), per image:
input, reconstruction, anomaly_map and the method's own arrays as NIfTI, label if there is one, and a record; and
run.json, and healthy.json if thresholds come from --healthy_dir. A rerun skips finished images.
"""

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

from baselines.calibration import calibrate_on_healthy
from baselines.checkpoints import TrainedBaseline, default_log_dir, load_baseline, newest_checkpoint
from baselines.flags import add_detection_flags, add_method_flag, detection_options, given_options
from baselines.methods import load_method
from uad.cli.command import command_of
from uad.cli.data import Opening, add_folder_flags, add_reading_flags, given_reading, only_shown, opening_of, ready
from uad.cli.flags import Flags, require
from uad.cli.inference import Output, add_output_flags, detect, output_of
from uad.cli.provenance import provenance
from uad.cli.runtime import Runtime, add_runtime_flags, amp_of_results, precision_of, runtime_of
from uad.configuration import check_given
from uad.data.reading.checks import data_hash
from uad.data.reading.opening import check_apart
from uad.data.reading.settings import Reading
from uad.distributed import World, distributed_world
from uad.errors import input_error
from uad.files import read_json
from uad.inference import result_writer


@dataclass(frozen=True)
class Request:
    """Everything that the flags say.

    model_path, log_dir: where the method is; stated: of how images are read; options: detection options given.
    """

    method: str
    model_path: str | None
    log_dir: str | None
    opening: Opening
    healthy_dir: str | None
    stated: dict
    options: dict
    score: str
    compare_sides: bool
    match_contrast: bool
    output: Output
    runtime: Runtime
    compile: bool


def get_args_parser() -> Flags:
    """All flags of a comparing method's detection."""
    parser = Flags(__doc__)
    add_method_flag(parser)
    add_detection_flags(parser)
    add_folder_flags(parser)
    add_output_flags(parser)
    add_runtime_flags(parser, compile=True)
    add_reading_flags(parser, compared=True)
    return parser


def request_of(args: argparse.Namespace) -> Request:
    """What the flags say, as plain values."""
    require(args, "method")
    return Request(
        method=args.method,
        model_path=args.model_path,
        log_dir=args.log_dir,
        opening=opening_of(args),
        healthy_dir=args.healthy_dir,
        stated=given_reading(args),
        options=given_options(args),
        score=args.score,
        compare_sides=args.compare_sides,
        match_contrast=args.match_contrast,
        output=output_of(args),
        runtime=runtime_of(args),
        compile=args.compile,
    )


def main(args: argparse.Namespace) -> None:
    """Check everything, then detect."""
    request = request_of(args)
    method, runtime = load_method(request.method), request.runtime
    with distributed_world(runtime.device) as world:
        share = world.share_of(request.output.batch_size)
        trained = load_baseline(method, checkpoint_of(request, method))
        reading = trained.judging(request.match_contrast)
        check_given(request.stated, asdict(reading), trained.path)
        if not ready(request.opening, reading, world):
            return
        folders = request.opening.folders
        healthy = request.opening.of_slices(request.healthy_dir) if request.healthy_dir else None
        if healthy:
            ready(healthy, reading, world, healthy=True)
            world.on_main(lambda: check_apart(healthy.folders, folders))
        out_dir = request.output.folder(Path("results") / f"{run_name(trained)}_{folders.name}")
        amp = precision_of(runtime.amp, world, trained.modules.values(), begun=amp_of_results(out_dir))
        options = detection_options(request.method, request.options, trained.config)
        modules = {stage: module.to(world.device) for stage, module in trained.modules.items()}
        if request.compile:
            for module in modules.values():
                module.compile()
        detector = method.Detector(trained.config, modules, options, amp, request.score)
        check_healthy_dir(request, detector)
        slices = folders.open(reading)
        info = run_info(request, trained, reading, detector, options, amp, world)
        info |= request.output.facts(out_dir, slices)
        if only_shown(request.opening, info | {"out_dir": str(out_dir)}, world):
            return
        if healthy:
            result_writer(out_dir, info, world)
            images = healthy.folders.open(reading)
            calibrate_on_healthy(detector, images, out_dir / "healthy.json", world, share, runtime.workers)
            options = options | read_json(out_dir / "healthy.json")
            detector = method.Detector(trained.config, modules, options, amp, request.score)
        detect(detector, slices, out_dir, info, request.compare_sides, share, runtime, world)


def checkpoint_of(request: Request, method) -> Path:
    """The checkpoint that the flags name."""
    if request.model_path is not None:
        return Path(request.model_path)
    default = default_log_dir(request.method, request.stated.get("dataset", "custom"))
    return newest_checkpoint(method, Path(request.log_dir) if request.log_dir else default)


def check_healthy_dir(request: Request, detector) -> None:
    """An InputError where --healthy_dir is missing, or given in vain."""
    if detector.needs_healthy and not request.healthy_dir:
        raise input_error(
            "--healthy_dir",
            "not given",
            f"healthy images, from which {detector.method} takes its threshold",
            "pass --healthy_dir, or choose options that need none",
        )
    if request.healthy_dir and not detector.needs_healthy:
        raise input_error("--healthy_dir", request.healthy_dir, f"none: {detector.method} needs none", "leave it out")


def run_name(trained: TrainedBaseline) -> str:
    """The name of the training run's folder."""
    return trained.path.resolve().parent.parent.name


def run_info(
    request: Request, trained: TrainedBaseline, reading: Reading, detector, options: dict, amp: str, world: World
) -> dict:
    """Everything that determines the results, for run.json, and where they came from."""
    networks = trained.modules.values()
    return {
        "method": detector.method,
        **asdict(reading),
        "healthy_dir": request.healthy_dir and str(request.healthy_dir),
        "healthy_hash": request.healthy_dir and world.told_by_main(lambda: data_hash(request.healthy_dir)),
        "seed": request.runtime.seed,
        "amp": amp,
        "compile": request.compile,
        "score": request.score,
        "compare_sides": request.compare_sides,
        "match_contrast": request.match_contrast,
        "options": options,
        "model": {"step": trained.step, "weights_hash": trained.weights_hashes, "command": trained.command},
        "parameters": sum(parameter.numel() for network in networks for parameter in network.parameters()),
        **provenance(reading, request.opening.folders, world),
    }


command = command_of(get_args_parser, main)

if __name__ == "__main__":
    command()
