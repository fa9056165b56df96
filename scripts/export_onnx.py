"""Write the networks of a trained model as ONNX files, with all that detection without PyTorch needs.

    python scripts/export_onnx.py --model logs/binaryae_brats --out DIR

Written to --out: encoder.onnx, image (N, C, S, S) -> probability (N, K, h, w) that a bit is set, before thresholding;
flip_network.onnx, code (N, K, h, w) of 0 and 1 in float32 and t (N), int64 -> log-odds that a bit is flipped;
decoder.onnx, code -> image, clipped to [0, 1]. All work for any N, in float32, with the averaged weights that detection
uses. config.json, written last: how images are read and normalised, shapes, alpha_bar, the masked denoising and the
constants of the map as set by the flags below, hashes. Each file is compared with PyTorch before it gets its name.
docs/onnx_detection.py makes maps from them with numpy and onnxruntime alone. Needs: pip install '.[onnx]'.
"""

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from bernoulli_diffusion.detect import denoising_steps
from bernoulli_diffusion.flags import add_detection_flags, detection_of
from bernoulli_diffusion.method import DETECTION_PRESETS, METHOD, Detection
from bernoulli_diffusion.shifts import DECODED, SHIFTS
from uad.checkpoints import versions
from uad.cli.command import command_of
from uad.cli.flags import Flags, add
from uad.cli.inference import add_model_flag
from uad.cli.provenance import command_line
from uad.data.reading.checks import file_hash
from uad.data.reading.tissue import AIR
from uad.detector import TrainedPair, load_pair
from uad.errors import input_error
from uad.files import TEMPORARY, remove_leftovers, write_json
from uad.onnx_export import CHECKED, check_packages, export_network
from uad.randomness import keyed_generator
from uad.scores import BALANCE, HALF_BELIEVED, gaussian_weights, sigma_in_pixels

CONFIG = "config.json"
FORMAT = 1
FILES = ("encoder.onnx", "flip_network.onnx", "decoder.onnx")


@dataclass(frozen=True)
class Request:
    """Everything that the flags say; model: the stage-1 run or a name, model_path: the checkpoint of stage 2, none for
    the newest, out: folder to write to.
    """

    model: Path
    model_path: tuple[str, ...]
    out: Path
    detection: Detection


def get_args_parser() -> Flags:
    """The flags, apart from main so that they can be tested."""
    parser = Flags(__doc__, preset=DETECTION_PRESETS)
    add_model_flag(parser)
    add(parser, "--out", type=Path, required=True, help="folder to write to, new or empty")
    add_detection_flags(parser)
    return parser


def request_of(args: argparse.Namespace) -> Request:
    """What the flags say, as plain values."""
    return Request(args.model, tuple(args.model_path or ()), args.out, detection_of(args))


def check_free(out: Path) -> None:
    """InputError unless the folder is new, empty, or that of an export that did not come to its end."""
    expected, remedy = "a new or empty folder", "name another --out, or move away what is there"
    if out.is_dir():
        names = {path.name for path in out.iterdir() if not path.name.startswith(TEMPORARY)}
        foreign = sorted(names if CONFIG in names else names.difference(FILES))
        if foreign:
            raise input_error(out, f"a folder that holds {', '.join(foreign[:5])}", expected, remedy)
        remove_leftovers(out)
    elif out.exists():
        raise input_error(out, "a file", expected, remedy)


def export_networks(out: Path, pair: TrainedPair) -> None:
    """Write FILES; they are compared with PyTorch on random images, codes and noise levels."""
    network, reading, model = pair.autoencoder.network, pair.autoencoder.reading, pair.model
    generator, count = keyed_generator("onnx"), max(CHECKED)
    images = torch.rand(count, reading.n_channels, reading.img_size, reading.img_size, generator=generator)
    codes = (torch.rand(count, *network.code_shape, generator=generator) < 0.5).float()
    levels = torch.randint(1, model.process.diffusion_steps + 1, (count,), generator=generator)

    def decoded(code: Tensor) -> Tensor:
        return network.decode(code).clamp(0, 1)

    encoder, flip_network, decoder = (out / name for name in FILES)
    export_network(encoder, network, network.encode, {"image": images}, "probability")
    export_network(flip_network, model.network, model.network.forward, {"code": codes, "t": levels}, "log_odds")
    export_network(decoder, network, decoded, {"code": codes}, "image")


def config_of(out: Path, pair: TrainedPair, detection: Detection) -> dict[str, object]:
    """What rebuilds the detection around the networks in `out`, as plain values.

    noise_levels: t_0 = L to t_K = 0; shifts: of the copies, down and right in pixels, of which the first
    `decoded_copies` are decoded; gaussian: weights of neighbouring pixels; balance: power of a map's mean that divides
    it; air: what is brighter in any channel is the body, whose middle is the mirror of --compare_sides.
    """
    autoencoder, model, reading = pair.autoencoder, pair.model, pair.reading(detection)
    size, code_shape = reading.img_size, autoencoder.network.code_shape
    half = size // code_shape[-1] // 2
    return {
        "format": FORMAT,
        "method": METHOD,
        "reading": {
            "dataset": reading.dataset,
            "n_channels": reading.n_channels,
            "img_size": size,
            "normalise": reading.normalise,
            "matched_to": reading.matched_to,
        },
        "facts": asdict(autoencoder.facts),
        "code_shape": list(code_shape),
        "process": asdict(model.shape.process) | {"alpha_bar": model.process.alpha_bar.tolist()},
        "detection": asdict(detection),
        "noise_levels": denoising_steps(detection.noise_level, detection.denoise_steps),
        "shifts": [[half * down, half * right] for down, right in SHIFTS[detection.shifts]],
        "decoded_copies": min(DECODED, detection.shifts),
        "map": {
            "gaussian": gaussian_weights(sigma_in_pixels(size), size),
            "half_believed": HALF_BELIEVED,
            "balance": BALANCE.get(detection.score, 0),
            "air": AIR,
        },
        "files": {name: file_hash(out / name) for name in FILES},
        "autoencoder": autoencoder.identity,
        "model": model.identity,
        "versions": versions(),
        "command": command_line(),
    }


def main(args: argparse.Namespace) -> None:
    """Check everything, then export, and say where the files lie."""
    request = request_of(args)
    check_packages()
    check_free(request.out)
    pair = load_pair(request.model, request.model_path)
    detection = pair.detection(request.detection)
    export_networks(request.out, pair)
    write_json(request.out / CONFIG, config_of(request.out, pair, detection))
    print(f"{', '.join(FILES)} and {CONFIG} are in {request.out}; docs/onnx_detection.py shows how to use them")


command = command_of(get_args_parser, main)

if __name__ == "__main__":
    command()
