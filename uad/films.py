"""Films of a denoising: what the bits, the mask and the image are after each step, DIR/film/NAME.npz.

They are looked at and never scored: everything is stored in 8 bits.
"""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from uad.errors import input_error
from uad.files import written_whole

FOLDER = "film"
ARRAYS = ("bits", "mask", "images")


@dataclass(frozen=True)
class Film:
    """levels: the noise level that each of T frames has come to, the first frame being the image's own code, 0; bits,
    mask: (T, h, w), of a position's bits the share that is set and the share that may change; images: (T, C, S, S),
    decoded; all in [0, 1].
    """

    levels: list[int]
    bits: np.ndarray
    mask: np.ndarray
    images: np.ndarray


def film_path(folder: Path, name: str) -> Path:
    """Where the film of an image lies; folder: the result folder."""
    return folder / FOLDER / f"{name}.npz"


def write_film(folder: Path, name: str, film: Film) -> None:
    """Save a film, whole."""
    arrays = {key: np.rint(255 * np.clip(getattr(film, key), 0, 1)).astype(np.uint8) for key in ARRAYS}
    with written_whole(film_path(folder, name)) as temporary:
        np.savez_compressed(temporary, levels=np.array(film.levels, np.int32), **arrays)


def read_film(folder: Path, name: str) -> Film | None:
    """The film of an image with its arrays as uint8, None where there is none; InputError for a damaged file."""
    path = film_path(folder, name)
    if not path.is_file():
        return None
    remedy = "delete it and run the detection again with --film"
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("no archive of arrays")
        with np.load(path, allow_pickle=False) as stored:
            film = Film(stored["levels"].tolist(), *(stored[key] for key in ARRAYS))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise input_error(path, f"unreadable ({type(error).__name__}: {error})", "a film", remedy) from error
    shapes = [getattr(film, key).shape for key in ARRAYS]
    if [len(shape) for shape in shapes] != [3, 3, 4] or {shape[0] for shape in shapes} != {len(film.levels)}:
        raise input_error(path, f"shapes {shapes}", "as many frames in each array", remedy)
    return film
