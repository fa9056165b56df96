"""Draw the method on one image: input, bits, noisy bits, mask, restored bits, reconstruction, map.

    python scripts/make_overview.py --dataset brats --data_dir data/brats/val_diseased \\
        --ae_load_dir logs/binaryae_brats --image BraTS20_Training_006_088 --out overview1.png

Takes the flags of scripts/latent_sample_anomaly.py for the model and the masked denoising. Without --image the slice
with the largest lesion is drawn. The picture comes from the run of a trained model; nothing in it is drawn by hand.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from bernoulli_diffusion.detect import masked_denoise
from bernoulli_diffusion.flags import DETECTION_PRESETS, add_diffusion_flags, complete_detection_flags
from bernoulli_diffusion.model import load_model
from binary_autoencoder.checkpoint import load_autoencoder
from binary_autoencoder.flags import add_autoencoder_flags
from uad.cli.command import run_command
from uad.cli.flags import DISPLAY_CHANNEL, Flags, add, add_shared_flags
from uad.data.reading.folder import SliceFolder
from uad.data.reading.opening import check_inputs, open_slices
from uad.distributed import choose_device
from uad.errors import input_error
from uad.evaluation.display import for_display
from uad.files import written_whole
from uad.precision import autocast, resolve_amp
from uad.randomness import keyed_generator, uniform_field
from uad.scores import SCORES, anomaly_map

PLANES = 4  # bit planes are shown as a PLANES x PLANES mosaic
BITS = {"cmap": "gray", "vmin": 0, "vmax": 1, "interpolation": "nearest"}


def get_args_parser() -> argparse.ArgumentParser:
    """The flags of inference, and which image to draw where."""
    parser = Flags(__doc__, DETECTION_PRESETS)
    add_shared_flags(parser)
    add_autoencoder_flags(parser)
    add_diffusion_flags(parser)
    group = parser.add_argument_group("picture")
    add(group, "--image", help="name of the slice, without extension", shown="the one with the largest lesion")
    add(group, "--score", default="paper", choices=SCORES, help="anomaly score of the map")
    add(group, "--out", default="overview1.png", help="picture to write")
    return parser


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
def stages(args: argparse.Namespace, item: dict, autoencoder, model, device: torch.device) -> dict[str, np.ndarray]:
    """Everything that the picture shows, by name, as arrays (..., H, W)."""
    amp = resolve_amp(args.amp, device)
    image = item["image"][None].to(device)
    network = autoencoder.network.to(device)
    with autocast(amp, device):
        code = (network.encode(image) > 0.5).float()
    # The same generator gives the same noise as that of the denoising below.
    level = torch.tensor([args.noise_level], device=device)
    noise = uniform_field([keyed_generator(args.seed, item["name"], device=device)], code.shape[1:])
    noisy = model.process.q_sample(code, level, noise)
    with autocast(amp, device):
        outcome = masked_denoise(
            model.network.to(device),
            code,
            model.process,
            [keyed_generator(args.seed, item["name"], device=device)],
            args.noise_level,
            args.prob_threshold,
            args.denoise_steps,
            spacing=args.denoise_spacing,
        )
        reconstruction = network.decode(outcome.code).float().clamp(0, 1)
    arrays = {
        "input": image[0],
        "code": code[0],
        "noisy": noisy[0],
        "mask": outcome.mask[0],
        "restored": outcome.code[0],
        "reconstruction": reconstruction[0],
        "map": anomaly_map(image, reconstruction, args.score, outcome.flip_probability.mean(1))[0],
    }
    if "label" in item:
        arrays["label"] = item["label"]
    affine = item["affine"].numpy()
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
    complete_detection_flags(args)
    device = choose_device(args.device, 0)
    autoencoder = load_autoencoder(args)
    check_inputs(args, autoencoder.data, None, healthy=False)
    model = load_model(args, autoencoder.network.code_shape, autoencoder.weights_hash)
    item = chosen_item(open_slices(args, autoencoder.data, args.data_dir), args.image)
    shown = stages(args, item, autoencoder, model, device)
    channel = DISPLAY_CHANNEL.get(autoencoder.data["dataset"], 0)
    figure = draw(shown, channel, args.noise_level, args.prob_threshold)
    with written_whole(Path(args.out)) as temporary:
        figure.savefig(temporary, dpi=110)
    print(f"{item['name']} drawn to {args.out}")


if __name__ == "__main__":
    run_command(lambda: main(get_args_parser().parse_args()))
