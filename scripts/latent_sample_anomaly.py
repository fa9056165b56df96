"""Detection: masked Bernoulli denoising of every image of a folder, with its anomaly map.

    python scripts/latent_sample_anomaly.py --dataset brats --data_dir data/brats/val_diseased \\
        --ae_load_dir logs/binaryae_brats --ae_load_step latest --amp
Several GPUs: torchrun --standalone --nproc-per-node=4 scripts/latent_sample_anomaly.py ...; the images are shared.

Without --model_path the newest EMA checkpoint in <ae_load_dir>/bernoulli_diffusion that was trained on this autoencoder
is used. Written to --out_dir (default results/<run>_<folder>_L<L>_P<P>), per image: input, reconstruction, anomaly_map,
autoencoder (its own reconstruction, without diffusion), latent_mask, flip_probability as NIfTI with the input's affine,
label where there is one, and a record; and run.json. Rerunning skips the images that are done.
"""

import argparse
from pathlib import Path

from bernoulli_diffusion.flags import DETECTION_PRESETS, add_diffusion_flags, complete_detection_flags
from bernoulli_diffusion.method import MaskedBernoulliDiffusion
from bernoulli_diffusion.model import TrainedDiffusion, load_model
from binary_autoencoder.checkpoint import TrainedAutoencoder, load_autoencoder
from binary_autoencoder.flags import add_autoencoder_flags
from uad.cli.command import run_command
from uad.cli.flags import Flags, add, add_shared_flags, provenance
from uad.data.reading.opening import check_once, open_slices
from uad.distributed import distributed_world
from uad.inference import detect_folder, result_writer
from uad.precision import prepare_inference, resolve_amp
from uad.scores import EVIDENCE_SCORES, SCORES, check_polarity


def get_args_parser() -> argparse.ArgumentParser:
    """All flags of inference."""
    parser = Flags(__doc__, DETECTION_PRESETS)
    add_shared_flags(parser)
    add_autoencoder_flags(parser)
    add_diffusion_flags(parser)
    group = parser.add_argument_group("inference")
    add(group, "--out_dir", help="result folder", shown="see the description")
    add(group, "--score", default="paper", choices=SCORES, help="anomaly score of the saved maps; see the README")
    add(
        group,
        "--polarity",
        nargs="+",
        type=int,
        help="prior knowledge per channel: lesions are brighter (1), darker (-1), or do not show (0)",
        shown="none",
    )
    return parser


def run_info(args: argparse.Namespace, autoencoder: TrainedAutoencoder, model: TrainedDiffusion, amp: str) -> dict:
    """Everything that determines the results, for run.json, and where they came from."""
    data = autoencoder.data
    return {
        "method": "masked Bernoulli diffusion",
        **data,
        "data_dir": str(args.data_dir),
        "num_samples": args.num_samples,
        "seed": args.seed,
        "amp": amp,
        "compile": args.compile,
        "score": args.score,
        "polarity": args.polarity,
        "noise_level": args.noise_level,
        "prob_threshold": args.prob_threshold,
        "denoise_steps": args.denoise_steps,
        "denoise_spacing": args.denoise_spacing,
        "shifts": args.shifts,
        "code_bits": code_bits(args, model),
        "autoencoder": {"step": autoencoder.step, "weights_hash": autoencoder.weights_hash},
        "model": {"step": model.step, "weights_hash": model.weights_hash},
        "parameters": sum(p.numel() for network in (autoencoder.network, model.network) for p in network.parameters()),
        **provenance(data["dataset"], args.data_dir),
    }


def code_bits(args: argparse.Namespace, model: TrainedDiffusion) -> str:
    """How probabilities become bits: as the flag says, else as in the model's training."""
    return args.code_bits or model.config["code_bits"]


def notices(args: argparse.Namespace, model: TrainedDiffusion) -> list[str]:
    """What to know where a model was not trained for what is asked of it."""
    found = []
    if args.score in EVIDENCE_SCORES and not model.config.get("lesion_share"):
        found.append("This model learned from noise alone, as in the paper: --preset paper is meant for it.")
    levels = model.config.get("trained_levels", args.noise_level)
    if args.noise_level > levels:
        found.append(
            f"This model learned noise of up to {levels} steps and does not know that of --noise_level "
            f"{args.noise_level}: leave the flag out, or train stage 2 with it too, or with --preset paper."
        )
    return found


def main(args: argparse.Namespace) -> None:
    """Check everything, then detect."""
    complete_detection_flags(args)
    with distributed_world(args.device) as world:
        autoencoder = load_autoencoder(args)
        check_polarity(args.polarity, args.score, autoencoder.data["n_channels"])
        summaries = check_once(args, autoencoder.data, None, healthy=False, world=world)
        if world.is_main:
            print("\n".join(summaries))
        if args.check_data:
            return
        model = load_model(args, autoencoder.network.code_shape, autoencoder.weights_hash)
        if world.is_main:
            for notice in notices(args, model):
                print(notice)
        amp = resolve_amp(args.amp, world.device)
        network = prepare_inference(autoencoder.network.to(world.device), amp)
        method = MaskedBernoulliDiffusion(
            encode=network.encode,
            decode=network.decode,
            network=prepare_inference(model.network.to(world.device), amp, args.compile),
            process=model.process,
            noise_level=args.noise_level,
            prob_threshold=args.prob_threshold,
            denoise_steps=args.denoise_steps,
            code_bits=code_bits(args, model),
            amp=amp,
            score=args.score,
            polarity=args.polarity,
            spacing=args.denoise_spacing,
            shifts=args.shifts,
        )
        slices = open_slices(args, autoencoder.data, args.data_dir)
        out_dir = Path(args.out_dir or default_out_dir(args))
        info = run_info(args, autoencoder, model, amp)
        writer = result_writer(out_dir, info, world)
        detect_folder(method, slices, writer, world, world.share_of(args.batch_size), args.seed, args.workers)
        if world.is_main:
            print(
                f"{len(slices)} images in {out_dir}; score them with: python scripts/evaluation.py --results {out_dir}"
            )


def default_out_dir(args: argparse.Namespace) -> Path:
    """results/<autoencoder run>_<folder>_L<noise level>_P<threshold>."""
    name = f"{Path(args.ae_load_dir).name}_{Path(args.data_dir).name}_L{args.noise_level}_P{args.prob_threshold:g}"
    return Path("results") / name


if __name__ == "__main__":
    run_command(lambda: main(get_args_parser().parse_args()))
