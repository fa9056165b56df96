"""Detection: masked Bernoulli denoising and an anomaly map for every image of a folder.

    python scripts/latent_sample_anomaly.py --dataset brats --data_dir data/brats/val_diseased \\
        --ae_load_dir logs/binaryae_brats --ae_load_step latest --amp
Several GPUs: torchrun --standalone --nproc-per-node=4 scripts/latent_sample_anomaly.py ...; the images are shared.

Without --model_path the newest EMA checkpoint in <ae_load_dir>/bernoulli_diffusion that was trained on this autoencoder
is used. Written to --out_dir (default results/<run>_<folder>_L<L>_P<P>), per image: input, reconstruction, anomaly_map,
autoencoder (its own reconstruction, without diffusion), latent_mask, flip_probability as NIfTI with the input's affine,
label if there is one, and a record; and run.json. A rerun skips finished images.
"""

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

from bernoulli_diffusion.filming import film_folder
from bernoulli_diffusion.flags import (
    add_detection_flags,
    add_model_source_flags,
    add_settings_flag,
    chosen_settings,
    detection_of,
    model_source,
    told_settings,
)
from bernoulli_diffusion.method import DETECTION_PRESETS, METHOD, Detection, detector, notices
from bernoulli_diffusion.model import ModelSource, TrainedDiffusion, load_model
from bernoulli_diffusion.settings import ChosenSettings
from binary_autoencoder.checkpoint import AutoencoderSource, TrainedAutoencoder, load_autoencoder
from binary_autoencoder.flags import add_autoencoder_flags, autoencoder_source
from uad.cli.command import command_of
from uad.cli.data import Opening, add_folder_flags, only_shown, opening_of, ready
from uad.cli.flags import Flags, add
from uad.cli.inference import Output, add_output_flags, detect, output_of
from uad.cli.provenance import provenance
from uad.cli.runtime import Runtime, add_runtime_flags, amp_of_results, graphs_of, precision_of, runtime_of
from uad.configuration import check_values
from uad.data.reading.facts import lying_otherwise
from uad.data.reading.settings import Reading
from uad.distributed import World, distributed_world
from uad.scores import check_polarity


@dataclass(frozen=True)
class Request:
    """Everything that the flags of detection say; settings: the file that chose values of them, or None."""

    opening: Opening
    autoencoder: AutoencoderSource
    model: ModelSource
    detection: Detection
    settings: ChosenSettings | None
    output: Output
    runtime: Runtime
    film: int
    compile: bool
    cuda_graphs: bool


def get_args_parser() -> Flags:
    """All flags of detection."""
    parser = Flags(__doc__, preset=DETECTION_PRESETS)
    add_folder_flags(parser)
    add_output_flags(parser)
    add(
        parser,
        "--film",
        type=int,
        default=0,
        help="number of images, evenly drawn, whose bits, mask and reconstruction are saved after each denoising step, "
        "for the viewer of report.html",
    )
    add_detection_flags(parser)
    add_settings_flag(parser)
    add_runtime_flags(parser, compile=True, cuda_graphs=True)
    add_model_source_flags(parser)
    add_autoencoder_flags(parser)
    return parser


def request_of(args: argparse.Namespace) -> Request:
    """What the flags say, as plain values."""
    check_values([("--film", args.film, "0 or more", args.film >= 0)])
    return Request(
        opening=opening_of(args),
        autoencoder=autoencoder_source(args),
        model=model_source(args),
        detection=detection_of(args),
        settings=chosen_settings(args),
        output=output_of(args),
        runtime=runtime_of(args),
        film=args.film,
        compile=args.compile,
        cuda_graphs=graphs_of(args),
    )


def run_info(
    request: Request,
    detection: Detection,
    reading: Reading,
    autoencoder: TrainedAutoencoder,
    model: TrainedDiffusion,
    amp: str,
    world: World,
) -> dict:
    """Everything that determines the results, for run.json, and where they came from."""
    networks = (autoencoder.network, model.network)
    return {
        "method": METHOD,
        **asdict(reading),
        "seed": request.runtime.seed,
        "amp": amp,
        "compile": request.compile,
        **asdict(detection),
        "denoise_spacing": "quadratic",
        "autoencoder": autoencoder.identity | {"command": autoencoder.command},
        "model": {
            **model.identity,
            "command": model.command,
            **({"chosen": model.config["chosen"]["words"]} if "chosen" in model.config else {}),
        },
        "parameters": sum(p.numel() for network in networks for p in network.parameters()),
        **provenance(reading, request.opening.folders, world, autoencoder.facts.channels),
    }


def main(args: argparse.Namespace) -> None:
    """Check everything, then detect."""
    request = request_of(args)
    runtime = request.runtime
    with distributed_world(runtime.device) as world:
        share = world.share_of(request.output.batch_size)
        autoencoder = load_autoencoder(request.autoencoder)
        check_polarity(request.detection.polarity, request.detection.score, autoencoder.reading.n_channels)
        if not ready(request.opening, autoencoder.reading, world):
            return
        model = load_model(request.model, autoencoder.network.code_shape, autoencoder.weights_hash)
        if request.settings:
            request.settings.check_networks(autoencoder.weights_hash, model.weights_hash)
        detection = request.detection.completed(model, autoencoder.facts.contrast)
        out_dir = request.output.folder(default_out_dir(request))
        networks = (autoencoder.network, model.network)
        amp = precision_of(runtime.amp, world, networks, begun=amp_of_results(out_dir))
        reading = autoencoder.judging(detection.match_contrast)
        slices = request.opening.folders.open(reading)
        if world.is_main:
            for notice in [*notices(detection, model), *lying_otherwise(slices, autoencoder.facts.lie)]:
                print(notice)
        info = run_info(request, detection, reading, autoencoder, model, amp, world)
        info |= request.output.facts(out_dir, slices)
        info |= told_settings(request.settings, lambda: info["data_hash"], world)
        if only_shown(request.opening, info | {"out_dir": str(out_dir)}, world):
            return
        speed = {"compiled": request.compile, "cuda_graphs": request.cuda_graphs}
        method = detector(autoencoder.network, model, detection, world.device, amp, **speed)
        detect(method, slices, out_dir, info, detection.compare_sides, share, runtime, world)
        if world.is_main:
            film_folder(method, slices, out_dir, request.film, runtime.seed, world.device)


def default_out_dir(request: Request) -> Path:
    """results/<autoencoder run>_<folder>_L<noise level>_P<threshold>."""
    run, images = Path(request.autoencoder.load_dir), request.opening.folders.name
    level, threshold = request.detection.noise_level, request.detection.prob_threshold
    return Path("results") / f"{run.name}_{images}_L{level}_P{threshold:g}"


command = command_of(get_args_parser, main)

if __name__ == "__main__":
    command()
