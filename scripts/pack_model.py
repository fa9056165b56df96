"""Pack a trained pair into a folder to hand on: the weights that detection uses, and nothing else.

    python scripts/pack_model.py --model logs/mine --out models/mine --check data/mine/val_healthy

The folder has the layout of a stage-1 run with its stage 2 inside, so every command accepts it. The flip network's
weights are rounded to 16 bits; the autoencoder's are kept, because rounding them would change bits of the codes.
--check reports how much maps change. `detect.py --model models/mine --healthy DIR` adds a calibration to the folder.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bernoulli_diffusion.method import Detection
from bernoulli_diffusion.model import EMA_FILES, default_log_dir
from binary_autoencoder.checkpoint import checkpoint_files
from uad.application.inputs import Item
from uad.application.opening import Opened, chain_of, open_item
from uad.checkpoints import load_checkpoint, save_checkpoint
from uad.cli.command import command_of
from uad.cli.flags import Flags, add
from uad.cli.inference import add_model_flag
from uad.configuration import check_values
from uad.data.reading.listing import evenly_spread, list_folder
from uad.data.reading.naming import ENDINGS, LABEL
from uad.detector import TrainedPair, load_detector, load_pair
from uad.errors import InputError, input_error
from uad.weights import rounded_weights, stored_weights

NAMES = tuple(name for name in ENDINGS if name != LABEL)
# So many slices of --check are judged by both.
CHECKED = 32
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Request:
    """Everything that the flags say; model_path: the checkpoint of stage 2, none for the newest; channels: what they
    show, check: folder of slices; None where not given.
    """

    model: Path
    model_path: tuple[str, ...]
    out: Path
    channels: tuple[str, ...] | None
    check: Path | None


def get_args_parser() -> Flags:
    """The flags, apart from main so that they can be tested."""
    parser = Flags(__doc__)
    add_model_flag(parser)
    add(parser, "--out", type=Path, required=True, help="folder of the packed model")
    add(
        parser,
        "--channels",
        nargs="+",
        help="contrasts of the model's channels, in order, if its training images (pictures, say) do not state them: "
        f"{', '.join(NAMES)}",
        shown="as trained",
    )
    add(parser, "--check", type=Path, help="folder of slices on which the maps of both are compared", shown="none")
    return parser


def main(args: argparse.Namespace) -> None:
    """Pack, and say how large the folder is and what it costs."""
    request = Request(
        args.model, tuple(args.model_path or ()), args.out, args.channels and tuple(args.channels), args.check
    )
    pair = load_pair(request.model, request.model_path)
    check_channels(request.channels, pair)
    if request.out.resolve() == pair.folder.resolve():
        raise input_error(f"--out {request.out}", "the model's own folder", "another one", "choose another --out")
    checked = slices_of(request.check, pair) if request.check else []
    paths = packed_paths(pair, request.out)
    there = [path for folder in {path.parent for path in paths} for path in folder.glob("*") if path not in paths]
    if there:
        expected, remedy = "a folder for this model alone", "choose another --out, or remove what is there"
        raise input_error(request.out, f"holds {there[0]}, which is of another model", expected, remedy)
    pack(pair, request.channels, *paths)
    size = sum(path.stat().st_size for path in paths) / 1e6
    reading, steps = pair.autoencoder.reading, f"step {pair.autoencoder.step} and step {pair.model.step}"
    print("Thresholds and percentiles are not packed: name --healthy once when you judge with it")
    print(f"{request.out}: {size:.1f} MB, for {reading.dataset} images of {reading.n_channels} channel(s), of {steps}")
    if request.check:
        print(difference(request, checked))


def packed_paths(pair: TrainedPair, out: Path) -> tuple[Path, Path]:
    """Where the two checkpoints lie in a packed folder, under names by which they are found there."""
    name = pair.model.path.name if pair.model.path.match(EMA_FILES) else f"emabld_{pair.model.step:06d}.pt"
    return checkpoint_files(out).ema_path(pair.autoencoder.step), default_log_dir(out) / name


def check_channels(channels: Sequence[str] | None, pair: TrainedPair) -> None:
    """An InputError for another number of channels than the model's, or other names than it has already."""
    known, count = pair.autoencoder.facts.channels, pair.autoencoder.reading.n_channels
    expected = f"{count} of {', '.join(NAMES)}, each once"
    right = channels is None or (len(set(channels)) == len(channels) == count and set(channels) <= set(NAMES))
    if right and channels and known not in (None, channels):
        right, expected = False, f"{' '.join(known)}, as in training"
    check_values([("--channels", " ".join(channels or ()), expected, right)])


def pack(pair: TrainedPair, channels: Sequence[str] | None, autoencoder: Path, model: Path) -> None:
    """Write the autoencoder's checkpoint as it is but for what its channels are called, and the model's with weights of
    16 bits.
    """
    content = load_checkpoint(pair.autoencoder.path)
    if channels:
        content["config"]["facts"]["channels"] = tuple(channels)
    save_checkpoint(autoencoder, content)
    content = load_checkpoint(pair.model.path)
    save_checkpoint(model, content | rounded_weights(stored_weights(content)))


def slices_of(folder: Path, pair: TrainedPair) -> list[tuple[Item, Opened]]:
    """At most CHECKED slices of a folder, evenly spread, as the model sees them; InputError as list_folder, and for
    those that it cannot judge.
    """
    listing = list_folder(folder)
    if listing.problems:
        raise InputError(listing.problems)
    chain = chain_of(pair.reading(pair.detection(Detection.preset())), pair.autoencoder.facts, None, False)
    items = [Item(name, slice_file=path) for name, path in listing.slices.items()]
    return [(item, open_item(item, chain)) for item in evenly_spread(items, CHECKED)]


def difference(request: Request, checked: Sequence[tuple[Item, Opened]]) -> str:
    """By how much the maps of the packed model are others."""
    detectors = load_detector(request.model, "cpu", model_path=request.model_path), load_detector(request.out, "cpu")
    full, packed = (
        np.stack([judged.maps for judged in each.judged(*zip(*checked, strict=True))]) for each in detectors
    )
    error = np.abs(full - packed)
    share = f"{(error > TOLERANCE).mean():.2%} of the pixels differ by more than {TOLERANCE:g}"
    return (
        f"maps of {len(checked)} slices, whose largest value is {full.max():.3g}: {share}, the largest difference is "
        f"{error.max():.2g}, the mean {error.mean():.1g}"
    )


command = command_of(get_args_parser, main)

if __name__ == "__main__":
    command()
