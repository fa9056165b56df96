"""Draw the method on one image: input, bits, noisy bits, mask, restored bits, reconstruction, map.

    python scripts/make_overview.py --dataset brats --data_dir data/brats/val_diseased \\
        --ae_load_dir logs/binaryae_brats --image BraTS20_Training_006_088 --out overview1.png

Takes the flags of scripts/latent_sample_anomaly.py for the model and the masked denoising. Without --image, the slice
with the largest lesion is drawn. The picture is made by running a trained model; nothing in it is drawn by hand.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from bernoulli_diffusion.detect import masked_denoise
from bernoulli_diffusion.flags import (
    add_detection_flags,
    add_model_source_flags,
    detection_of,
    model_source,
)
from bernoulli_diffusion.method import DETECTION_PRESETS, Detection, detector
from bernoulli_diffusion.model import ModelSource, TrainedDiffusion, load_model
from binary_autoencoder.checkpoint import AutoencoderSource, TrainedAutoencoder, load_autoencoder
from binary_autoencoder.flags import add_autoencoder_flags, autoencoder_source
from uad.cli.command import command_of
from uad.cli.data import Opening, add_folder_flags, only_shown, opening_of, ready
from uad.cli.flags import Flags, add
from uad.cli.runtime import add_runtime_flags, precision_of
from uad.data.reading.folder import SliceFolder
from uad.distributed import distributed_world
from uad.errors import input_error
from uad.evaluation.display import for_display
from uad.files import written_whole
from uad.precision import autocast
from uad.randomness import keyed_generator, uniform_field
from uad.sides import one_sided

PLANES = 4  # bit planes are shown as a PLANES x PLANES mosaic
BITS = {"cmap": "gray", "vmin": 0, "vmax": 1, "interpolation": "nearest"}


@dataclass(frozen=True)
class Request:
    """Everything that the flags say; image: name of the slice, out: the picture."""

    opening: Opening
    autoencoder: AutoencoderSource
    model: ModelSource
    detection: Detection
    device: str
    amp: str
    seed: int
    image: str | None
    out: Path


def get_args_parser() -> Flags:
    """The flags of inference, and which image to draw where."""
    parser = Flags(__doc__, preset=DETECTION_PRESETS)
    group = parser.add_argument_group("picture")
    add(group, "--image", help="name of the slice, without extension", shown="the one with the largest lesion")
    add(group, "--out", default="overview1.png", help="picture to write")
    add_folder_flags(parser)
    add_detection_flags(parser)
    add_runtime_flags(parser)
    add_model_source_flags(parser)
    add_autoencoder_flags(parser)
    return parser


def request_of(args: argparse.Namespace) -> Request:
    """What the flags say, as plain values."""
    return Request(
        opening=opening_of(args),
        autoencoder=autoencoder_source(args),
        model=model_source(args),
        detection=detection_of(args),
        device=args.device,
        amp=args.amp,
        seed=args.seed,
        image=args.image,
        out=Path(args.out),
    )


def chosen_item(slices: SliceFolder, name: str | None) -> dict:
    """The slice named, or the one with the most lesion pixels; an InputError for an unknown name."""
    if name is None:
        return max((slices[i] for i in range(len(slices))), key=lambda item: int(item.get("label", Tensor([0])).sum()))
    if name not in slices.names:
        raise input_error(
            f"--image {name}", "no such slice", f"one of {', '.join(slices.names[:5])}, ...", "name another"
        )
    return slices[slices.names.index(name)]


def mosaic(planes: np.ndarray) -> np.ndarray:
    """The first PLANES^2 of (K, h, w) side by side, separated by grey lines."""
    framed = np.pad(planes[: PLANES**2].astype(float), ((0, 0), (0, 1), (0, 1)), constant_values=0.5)
    rows = [np.concatenate(framed[i : i + PLANES], axis=1) for i in range(0, len(framed), PLANES)]
    return np.concatenate(rows, axis=0)


@torch.inference_mode()
def stages(
    item: dict,
    autoencoder: TrainedAutoencoder,
    model: TrainedDiffusion,
    detection: Detection,
    seed: int,
    device: torch.device,
    amp: str,
) -> dict[str, np.ndarray]:
    """Everything that the picture shows, by name, as arrays (..., H, W).

    Reconstruction and map are the detector's; bits and mask are those of the image that is not shifted.
    """
    method = detector(autoencoder.network, model, detection, device, amp)
    image = item["image"][None].to(device)

    def generators() -> list[torch.Generator]:
        return [keyed_generator(seed, item["name"], device=device)]

    with autocast(amp, device):
        probability = method.encode(image)
        # The same generator draws the same bits and the same noise as in the denoising.
        drawing, denoising = generators(), generators()
        code = method.bits(probability, drawing)
        level = torch.tensor([detection.noise_level], device=device)
        noisy = model.process.q_sample(code, level, uniform_field(drawing, code.shape[1:]))
        outcome = masked_denoise(
            method.network,
            method.bits(probability, denoising),
            model.process,
            denoising,
            detection.noise_level,
            detection.prob_threshold,
            detection.denoise_steps,
        )
    result = method.reconstruct(image, generators())
    map_, affine = result.anomaly_map, item["affine"].numpy()
    if detection.compare_sides:
        map_ = one_sided(map_, image, [affine], [item["name"]])
    arrays = {
        "input": image[0],
        "code": code[0],
        "noisy": noisy[0],
        "mask": outcome.mask[0],
        "restored": outcome.code[0],
        "reconstruction": result.image[0],
        "map": map_[0],
    }
    if "label" in item:
        arrays["label"] = item["label"]
    return {name: for_display(array.float().cpu().numpy(), affine) for name, array in arrays.items()}


def draw(shown: dict[str, np.ndarray], channel: int, noise_level: int, prob_threshold: float) -> Figure:
    """The figure: the steps in two rows, numbered in their order."""
    size = shown["input"].shape[-2:]
    grey = {"cmap": "gray", "vmin": 0, "vmax": 1}
    panels = [
        ("input", shown["input"][channel], grey),
        (r"bits $z_0$", mosaic(shown["code"]), BITS),
        (rf"noisy bits $z_L$, $L = {noise_level}$", mosaic(shown["noisy"]), BITS),
        (rf"mask: flip probability $> {prob_threshold:g}$", mosaic(shown["mask"]), BITS),
        (r"masked denoising $\hat z_0$", mosaic(shown["restored"]), BITS),
        ("reconstruction", shown["reconstruction"][channel], grey),
        ("anomaly map", shown["map"], {"cmap": "inferno", "vmin": 0, "vmax": np.percentile(shown["map"], 99.8)}),
    ]
    if "label" in shown:
        panels.append(("truth", shown["label"], grey))
    figure = Figure(figsize=(10, 5.5), facecolor="white", layout="constrained")
    axes = figure.subplots(2, 4).flat
    for number, (axis, (title, array, style)) in enumerate(zip(axes, panels, strict=False), 1):
        # Mosaics are stretched to the size of an image, so that all panels align.
        axis.imshow(array, extent=(0, size[1], size[0], 0), **style)
        axis.set_title(f"{number}  {title}", fontsize=11, loc="left")
    for axis in figure.axes:
        axis.set_axis_off()
    return figure


def main(args: argparse.Namespace) -> None:
    """Load the models, run them on the image, draw."""
    request = request_of(args)
    with distributed_world(request.device) as world:
        autoencoder = load_autoencoder(request.autoencoder)
        if not ready(request.opening, autoencoder.reading, world):
            return
        model = load_model(request.model, autoencoder.network.code_shape, autoencoder.weights_hash)
        detection = request.detection.completed(model, autoencoder.facts.contrast)
        if only_shown(request.opening, vars(detection) | {"out": str(request.out)}, world):
            return
        if not world.is_main:
            return
        reading = autoencoder.judging(detection.match_contrast)
        item = chosen_item(request.opening.folders.open(reading), request.image)
        amp = precision_of(request.amp, world, (autoencoder.network, model.network))
        shown = stages(item, autoencoder, model, detection, request.seed, world.device, amp)
        channel = autoencoder.reading.display_channel
        figure = draw(shown, channel, detection.noise_level, detection.prob_threshold)
        with written_whole(request.out) as temporary:
            figure.savefig(temporary, dpi=110)
        print(f"{item['name']} drawn to {request.out}")


command = command_of(get_args_parser, main)

if __name__ == "__main__":
    command()
