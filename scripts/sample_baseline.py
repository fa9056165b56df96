"""Detection by one of the methods that the masked Bernoulli diffusion is compared with.

    python scripts/sample_baseline.py --method anoddpm --data_dir data/brats/val_diseased --log_dir logs/anoddpm_brats
Several GPUs: with torchrun, as for the main method; the images are shared.

The networks and the way images are read come from the checkpoint: --model_path, or the newest of the method's last
stage in --log_dir (default logs/<method>_<dataset>). Written to --out_dir (default results/<run>_<folder>), per image:
input, reconstruction, anomaly_map and the method's own arrays as NIfTI, label where there is one, and a record; and
run.json, and healthy.json where thresholds come from --healthy_dir. Rerunning skips the images that are done.
"""

import argparse
from pathlib import Path

from baselines.calibration import calibrate_on_healthy
from baselines.checkpoints import TrainedBaseline, default_log_dir, find_checkpoint, load_baseline
from baselines.flags import add_detection_flags, add_method_flag, detection_options
from baselines.methods import load_method
from uad.cli.command import run_command
from uad.cli.flags import Flags, add_shared_flags, provenance, reconcile, require
from uad.data.reading.opening import check_once, open_slices
from uad.distributed import World, distributed_world
from uad.errors import input_error
from uad.files import read_json
from uad.inference import detect_folder, result_writer
from uad.precision import resolve_amp


def get_args_parser() -> argparse.ArgumentParser:
    """All flags of a comparing method's detection."""
    parser = Flags(__doc__)
    add_method_flag(parser)
    add_detection_flags(parser)
    add_shared_flags(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    """Check everything, then detect."""
    require(args, "method")
    method = load_method(args.method)
    with distributed_world(args.device) as world:
        trained = load_baseline(method, find_checkpoint(args, method, default_log_dir(args)))
        reconcile(args, {key: value for key, value in trained.data.items() if key != "dataset"}, trained.path)
        summaries = check_data(args, trained.data, world)
        if world.is_main:
            print("\n".join(summaries))
        if args.check_data:
            return
        amp = resolve_amp(args.amp, world.device)
        options = detection_options(args, trained.config)
        modules = {stage: module.to(world.device) for stage, module in trained.modules.items()}
        if args.compile:
            for module in modules.values():
                module.compile()
        detector = method.Detector(trained.config, modules, options, amp, args.score)
        check_healthy_dir(args, detector)
        out_dir = Path(args.out_dir or Path("results") / f"{run_name(trained)}_{Path(args.data_dir).name}")
        info = run_info(args, trained, detector, options, amp)
        writer, batch_size = result_writer(out_dir, info, world), world.share_of(args.batch_size)
        if args.healthy_dir:
            healthy = open_slices(args, trained.data, args.healthy_dir)
            calibrate_on_healthy(detector, healthy, out_dir / "healthy.json", world, batch_size, args.workers)
            options = options | read_json(out_dir / "healthy.json")
            detector = method.Detector(trained.config, modules, options, amp, args.score)
        slices = open_slices(args, trained.data, args.data_dir)
        detect_folder(detector, slices, writer, world, batch_size, args.seed, args.workers)
        if world.is_main:
            print(
                f"{len(slices)} images in {out_dir}; score them with: python scripts/evaluation.py --results {out_dir}"
            )


def check_data(args: argparse.Namespace, data: dict, world: World) -> list[str]:
    """Check --data_dir and --healthy_dir; their patients may be the same, but not their images' state of health."""
    summaries = check_once(args, data, None, healthy=False, world=world)
    if args.healthy_dir:
        healthy = argparse.Namespace(**vars(args) | {"data_dir": args.healthy_dir, "val_dir": None, "test_dir": None})
        summaries += check_once(healthy, data, None, healthy=True, world=world)
    return summaries


def check_healthy_dir(args: argparse.Namespace, detector) -> None:
    """An InputError where --healthy_dir is missing, or given in vain."""
    if detector.needs_healthy and not args.healthy_dir:
        raise input_error(
            "--healthy_dir",
            "not given",
            f"healthy images, from which {detector.method} takes its threshold",
            "pass --healthy_dir, or choose options that need none",
        )
    if args.healthy_dir and not detector.needs_healthy:
        raise input_error("--healthy_dir", args.healthy_dir, f"none: {detector.method} needs none", "leave it out")


def run_name(trained: TrainedBaseline) -> str:
    """The name of the training run's folder."""
    return trained.path.resolve().parent.parent.name


def run_info(args: argparse.Namespace, trained: TrainedBaseline, detector, options: dict, amp: str) -> dict:
    """Everything that determines the results, for run.json, and where they came from."""
    data = trained.data
    networks = trained.modules.values()
    return {
        "method": detector.method,
        **data,
        "data_dir": str(args.data_dir),
        "healthy_dir": args.healthy_dir and str(args.healthy_dir),
        "num_samples": args.num_samples,
        "seed": args.seed,
        "amp": amp,
        "compile": args.compile,
        "score": args.score,
        "options": options,
        "model": {"step": trained.step, "weights_hash": trained.weights_hashes},
        "parameters": sum(parameter.numel() for network in networks for parameter in network.parameters()),
        **provenance(data["dataset"], args.data_dir),
    }


if __name__ == "__main__":
    run_command(lambda: main(get_args_parser().parse_args()))
