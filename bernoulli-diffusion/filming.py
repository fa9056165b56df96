"""Films of the denoising of some images of a folder."""

from pathlib import Path

import torch

from bernoulli_diffusion.method import MaskedBernoulliDiffusion
from uad.data.reading.folder import SliceFolder
from uad.data.reading.listing import evenly_spread
from uad.films import film_path, write_film
from uad.randomness import keyed_generator

# A long denoising is shown by so many frames.
MOST_FRAMES = 24


def film_folder(
    method: MaskedBernoulliDiffusion, slices: SliceFolder, folder: Path, count: int, seed: int, device: torch.device
) -> None:
    """Save films of so many images, evenly spread over the slices, to a result folder, unless they are there.

    Their random numbers are those of detection with this seed.
    """
    for number in evenly_spread(range(len(slices)), count):
        name = slices.names[number]
        if not film_path(folder, name).is_file():
            image = slices[number]["image"].to(device)
            write_film(folder, name, method.film(image, keyed_generator(seed, name, device=device), MOST_FRAMES))
