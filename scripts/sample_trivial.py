"""Detection by a trivial competitor: what any trained method has to beat.

    python scripts/sample_trivial.py --method intensity --dataset brats --data_dir data/brats/val_diseased --channel 3
    python scripts/sample_trivial.py --method pca --dataset brats --data_dir data/brats/val_diseased \\
        --train_dir data/brats/train_healthy --model_path logs/pca_brats.pt
    python scripts/sample_trivial.py --method autoencoder --data_dir data/brats/val_diseased --ae_load_dir logs/binaryae

intensity: the image itself, one channel or the sum, as it is or histogram-equalised. pca: what the principal components
of healthy images do not explain; they are fitted once and kept in --model_path. autoencoder: the binarizing autoencoder
without diffusion. Written to --out_dir (default results/<method>_<folder>): a result folder as of any other method.
"""

import argparse
from pathlib import Path

from baselines.trivial import AutoencoderAlone, PcaResidual, RawIntensity, fit_pca, load_pca, save_pca
from binary_autoencoder.checkpoint import load_autoencoder
from binary_autoencoder.flags import add_autoencoder_flags
from uad.checkpoints import weights_hash
from uad.cli.command import run_command
from uad.cli.flags import (
    CHANNEL_NAMES,
    Flags,
    add,
    add_shared_flags,
    add_switch,
    provenance,
    reading_of,
    reconcile,
    require,
)
from uad.configuration import check_values
from uad.data.reading.opening import check_once, open_slices
from uad.distributed import World, distributed_world
from uad.inference import detect_folder, result_writer
from uad.precision import resolve_amp
from uad.scores import RESIDUAL_SCORES

METHODS = ("intensity", "pca", "autoencoder")


def get_args_parser() -> argparse.ArgumentParser:
    """All flags of the trivial competitors."""
    parser = Flags(__doc__)
    add_shared_flags(parser)
    add_autoencoder_flags(parser)
    group = parser.add_argument_group("trivial competitors")
    add(group, "--method", choices=METHODS, help="which competitor", shown="required")
    add(group, "--channel", type=int, help="intensity: the channel, from 0", shown="the sum over channels")
    add_switch(group, "--equalise", "intensity: equalise the histogram of every image and channel")
    add(group, "--train_dir", help="pca: folder of healthy slices to fit to", shown="none")
    add(group, "--components", type=int, default=32, help="pca: number of components that are fitted")
    add(group, "--model_path", help="pca: file of the components; fitted where it does not exist", shown="none")
    add(
        group,
        "--score",
        default="paper",
        choices=RESIDUAL_SCORES,
        help="anomaly score; intensity: smoothed unless it is paper",
    )
    add(group, "--out_dir", help="result folder", shown="see the description")
    return parser


def intensity(args: argparse.Namespace, world: World):
    """(method, its name, data settings, what is written to run.json of it)."""
    data = reading_of(args)
    n_channels = data["n_channels"]
    in_range = args.channel is None or 0 <= args.channel < n_channels
    check_values([("--channel", args.channel, f"0..{n_channels - 1}", in_range)])
    names = CHANNEL_NAMES.get(data["dataset"], [f"channel {number}" for number in range(n_channels)])
    name = "raw intensity: " + ("sum" if args.channel is None else names[args.channel])
    name += ", equalised" if args.equalise else ""
    method = RawIntensity(args.channel, args.equalise, args.score)
    return method, name, data, {"channel": args.channel, "equalise": args.equalise, "parameters": 0}


def pca(args: argparse.Namespace, world: World):
    """As `intensity`; the components come from --model_path, or are fitted and kept there."""
    require(args, "model_path")
    if not Path(args.model_path).exists() and world.is_main:
        require(args, "train_dir")
        data = reading_of(args)
        training = argparse.Namespace(**vars(args) | {"data_dir": args.train_dir, "num_samples": 0})
        check_once(training, data, None, healthy=True, world=World(0, 1, world.device))
        save_pca(args.model_path, *fit_pca(open_slices(training, data, args.train_dir), args.components), data)
    world.barrier()
    mean, components, data = load_pca(args.model_path)
    reconcile(args, {key: value for key, value in data.items() if key != "dataset"}, args.model_path)
    model = {"components": len(components), "weights_hash": weights_hash({"mean": mean, "components": components})}
    method = PcaResidual(mean.to(world.device), components.to(world.device), args.score)
    return method, "PCA residual", data, {"model": model, "parameters": mean.numel() + components.numel()}


def autoencoder(args: argparse.Namespace, world: World):
    """As `intensity`; the network is named by --ae_load_dir."""
    trained = load_autoencoder(args)
    method = AutoencoderAlone(trained.network.to(world.device), resolve_amp(args.amp, world.device), args.score)
    facts = {
        "autoencoder": {"step": trained.step, "weights_hash": trained.weights_hash},
        "parameters": sum(parameter.numel() for parameter in trained.network.parameters()),
    }
    return method, "binarizing autoencoder", trained.data, facts


def main(args: argparse.Namespace) -> None:
    """Check everything, then detect."""
    require(args, "method")
    with distributed_world(args.device) as world:
        method, name, data, facts = {"intensity": intensity, "pca": pca, "autoencoder": autoencoder}[args.method](
            args, world
        )
        summaries = check_once(args, data, None, healthy=False, world=world)
        if world.is_main:
            print("\n".join(summaries))
        if args.check_data:
            return
        info = {
            "method": name,
            **data,
            "data_dir": str(args.data_dir),
            "num_samples": args.num_samples,
            "seed": args.seed,
            "amp": resolve_amp(args.amp, world.device),
            "score": args.score,
            **facts,
            **provenance(data["dataset"], args.data_dir),
        }
        out_dir = Path(args.out_dir or Path("results") / f"{args.method}_{Path(args.data_dir).name}")
        slices = open_slices(args, data, args.data_dir)
        writer = result_writer(out_dir, info, world)
        detect_folder(method, slices, writer, world, world.share_of(args.batch_size), args.seed, args.workers)
        if world.is_main:
            print(f"{len(slices)} images in {out_dir}")


if __name__ == "__main__":
    run_command(lambda: main(get_args_parser().parse_args()))
