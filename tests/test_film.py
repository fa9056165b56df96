"""Films of the denoising: its last frame is the result, and what the page shows of it is what was stored."""

import json

import numpy as np
import pytest
import torch
from result_folders import SIZE, write_folder
from test_report import unpacked
from test_shifts import decode, encode

from bernoulli_diffusion.method import MaskedBernoulliDiffusion
from bernoulli_diffusion.process import BernoulliDiffusion
from uad.errors import InputError
from uad.evaluation.display import for_display
from uad.evaluation.study import open_study
from uad.films import Film, film_path, read_film, write_film
from uad.randomness import keyed_generator
from uad.report.choosing import Entry
from uad.report.slices import pack_case


def uncertain(z_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Log-odds that differ between bits and steps: some of the bits may change, and more with every step."""
    places = torch.arange(z_t[0].numel(), dtype=torch.float32).view(z_t[0].shape)
    return 3 * torch.sin(places + t.view(-1, 1, 1, 1)) + (2 * z_t - 1)


@pytest.mark.parametrize("most", [50, 4])
def test_a_film_ends_with_what_detection_gives(most):
    method = MaskedBernoulliDiffusion(encode, decode, uncertain, BernoulliDiffusion(), 8)
    image = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(1))
    film = method.film(image, keyed_generator(0, "a"), most)
    result = method.reconstruct(image[None], [keyed_generator(0, "a")])
    assert film.levels == ([0, *range(7, -1, -1)] if most == 50 else [0, 5, 3, 0])
    np.testing.assert_array_equal(film.images[-1], result.image[0])
    np.testing.assert_array_equal(film.mask[-1], result.extras["latent_mask"][0].float().mean(0))
    np.testing.assert_array_equal(film.bits[0], (encode(image[None]) > 0.5)[0].float().mean(0))
    assert not film.mask[0].any() and 0 < film.mask[1].mean() < film.mask[-1].mean() <= 1


def any_film(frames: int) -> Film:
    rng = np.random.default_rng(4)
    return Film(
        list(range(frames)), rng.random((frames, 8, 8)), rng.random((frames, 8, 8)), rng.random((frames, 1, SIZE, SIZE))
    )


def test_a_film_is_read_as_it_was_written_and_reaches_the_page(tmp_path):
    folder = write_folder(tmp_path / "run", 1, 1)
    study = open_study(folder, "saved")
    name, film = study.names[0], any_film(3)
    assert read_film(folder, name) is None
    write_film(folder, name, film)
    found = read_film(folder, name)
    assert found.levels == [0, 1, 2]
    np.testing.assert_allclose(found.images / 255, film.images, atol=0.5 / 255)
    entry = Entry(name, name, "scored", True, 1, ({"score": 0.0},))
    content = json.loads(pack_case([(study, None)], [1.0], entry).text)["methods"][0]["film"]
    affine = study.load(name).affine
    np.testing.assert_array_equal(unpacked(content["images"])[0], for_display(found.images[:, 0], affine))
    np.testing.assert_array_equal(unpacked(content["mask"]), for_display(found.mask, affine))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"nothing"])
def test_a_damaged_film_is_named(tmp_path, content):
    path = film_path(tmp_path, "a")
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(InputError, match="run the detection again with --film"):
        read_film(tmp_path, "a")
