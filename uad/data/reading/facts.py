"""What a model must know of its training images to be applied to volumes: kept in its checkpoint."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mode

import numpy as np
import torch

from uad.data.reading.contrast import Contrast, mean_contrast
from uad.data.reading.folder import SliceFolder, resize_image, resize_mask
from uad.data.reading.formats import RawSlice, read_slice
from uad.data.reading.likeness import Likeness, likeness_of
from uad.data.reading.listing import evenly_spread
from uad.data.reading.normalise import CONTRASTED, contrast_of, foreground_of, normalise
from uad.data.reading.planes import Framing
from uad.data.reading.prepared import preparation_of
from uad.data.reading.settings import Reading
from uad.data.reading.turning import lies
from uad.errors import ValueProblem
from uad.files import read_json

# So many images, evenly spread, say what a training set looks like.
LOOKED_AT = 128
# So many, evenly spread, say how they lie.
LYING = 16


@dataclass(frozen=True)
class Levels:
    """Which slices of a volume were trained on: all but `low` at the bottom and `high` at the top, of `slices` in every
    volume, None where they had several numbers of slices.
    """

    low: int
    high: int
    slices: int | None


@dataclass(frozen=True)
class TrainingFacts:
    """channels: what they show, None where nothing says it; framing, levels, min_brain: how volumes became slices, None
    where they were not made by this project's preparation; likeness: what the normalised images look like; contrast:
    theirs, None where their normalisation has none; lie: to where their H and W run, see uad.data.reading.turning. The
    last three are None of models that stored nothing.
    """

    channels: tuple[str, ...] | None = None
    framing: Framing | None = None
    levels: Levels | None = None
    min_brain: float | None = None
    likeness: Likeness | None = None
    contrast: Contrast | None = None
    lie: str | None = None

    @classmethod
    def stored(cls, config: Mapping | None) -> "TrainingFacts":
        """From what `asdict` gave for a checkpoint; None of a model that stored nothing."""
        if config is None:
            return cls()
        kinds = {"framing": Framing, "levels": Levels, "likeness": Likeness}
        return cls(
            **{name: kinds[name](**value) if name in kinds and value else value for name, value in config.items()}
        )


def facts_of(slices: SliceFolder, reading: Reading) -> TrainingFacts:
    """Of a training folder; a preparation is looked for beside it, also where it is a link."""
    contrasts, lying = [], []

    def seen() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for path, raw in _looked_at(slices, reading):
            lying.append(lies(raw.affine))
            if reading.normalise == CONTRASTED:
                contrasts.append(_contrast_of(path, raw))
            yield as_seen(raw.image, reading, raw.full_scale)

    of_images = {"likeness": likeness_of(seen())}
    of_images |= {"contrast": mean_contrast(contrasts) if contrasts else None, "lie": mode(lying)}
    found = preparation_of(slices.folder)
    if found is None:
        names = reading.channel_names if reading.names_channels else None
        return TrainingFacts(channels=names, **of_images)
    there = read_json(found)
    framing = Framing(there["spacing"], there["img_size"])
    levels = Levels(there["skip_low"], there["skip_high"], there["volume_slices"])
    return TrainingFacts(tuple(there["channels"]), framing, levels, there["min_brain"], **of_images)


def contrast_of_training(slices: SliceFolder, reading: Reading) -> Contrast | None:
    """The mean contrast of a training folder, None where the normalisation has none.

    InputError for a slice that cannot be normalised so.
    """
    if reading.normalise != CONTRASTED:
        return None
    return mean_contrast([_contrast_of(path, raw) for path, raw in _looked_at(slices, reading)])


def lying_otherwise(slices: SliceFolder, lie: str | None) -> list[str]:
    """What to know where slices, of some that are looked at, do not lie as those of the training, see
    TrainingFacts.lie.
    """
    if lie is None:
        return []
    here = [lies(read_slice(path, slices.n_channels).affine) for path in evenly_spread(slices.paths, LYING)]
    others = [each for each in here if each != lie]
    if not others:
        return []
    said = f"{len(others)} of {len(here)} slices looked at have H and W that run to {mode(others)}"
    return [f"{said}, those of the training to {lie}: they are judged as they lie."]


def _contrast_of(path: Path, raw: RawSlice) -> np.ndarray:
    try:
        return contrast_of(raw.image)
    except ValueProblem as error:
        raise error.at(path) from error


def _looked_at(slices: SliceFolder, reading: Reading) -> Iterator[tuple[Path, RawSlice]]:
    for path in evenly_spread(slices.paths, LOOKED_AT):
        yield path, read_slice(path, reading.n_channels)


def as_seen(raw: np.ndarray, reading: Reading, full_scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """A raw slice (C, H, W) as the networks see it, (C, S, S) in [0, 1], and its foreground (S, S) bool.

    ValueProblem as normalise.
    """
    normalised = normalise(raw, reading.normalise, full_scale, reading.matched_to)
    image = resize_image(torch.from_numpy(normalised), reading.img_size)
    foreground = resize_mask(torch.from_numpy(foreground_of(raw)[0]), image.shape[1:])
    return image.numpy(), foreground.numpy()
