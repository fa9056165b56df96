"""White beside a scan of the retina: what is taken for air, and what is not."""

import io

import numpy as np
import pytest
from PIL import Image

from binary_autoencoder.train_ae_dist import get_args_parser
from uad.cli.data import reading_of
from uad.data.reading.fill import without_fill
from uad.data.reading.normalise import normalise

HEIGHT, WIDTH = 248, 256
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH]


def scan() -> np.ndarray:
    """Noise, and a retina whose brightest layer is white from the left border to the right one."""
    image = np.random.default_rng(0).uniform(5, 40, (HEIGHT, WIDTH))
    image[110:170] = 120
    image[150:160] = 255
    return np.round(image).astype(np.uint8)


def wedge(high: int, low: int) -> np.ndarray:
    return high + (low - high) * COLUMNS / WIDTH > ROWS


def jpeg(image: np.ndarray) -> np.ndarray:
    stored = io.BytesIO()
    Image.fromarray(image).save(stored, "JPEG", quality=75)
    return np.asarray(Image.open(stored))


@pytest.mark.parametrize("kept", [lambda image: image, jpeg], ids=["exact", "jpeg"])
@pytest.mark.parametrize("below", [False, True])
def test_wedges_become_air_and_nothing_else(kept, below):
    white = wedge(40, 4)
    image = np.where(white, 255, scan()).astype(np.uint8)
    image, white = (image[::-1], white[::-1]) if below else (image, white)
    image = kept(np.ascontiguousarray(image))
    found = without_fill(image[None].astype(np.float32), 255.0)[0]
    assert (found[white] == 0).all()
    changed = (found != image) & ~white
    assert changed.mean() < 0.02, "the edge, which JPEG blurs"
    bright = slice(88, 98) if below else slice(150, 160)
    assert (found[bright] == image[bright]).all(), "the layer that is as white, and reaches two borders"


def test_scans_without_fill_are_left_alone():
    image = scan()[None].astype(np.float32)
    assert without_fill(image, 255.0) is image
    few = image.copy()
    few[0, 0, :20] = 255
    assert without_fill(few, 255.0) is few, "a few bright pixels at the border"
    assert normalise(image, "retina", 255.0).tobytes() == normalise(image, "tissue", 255.0).tobytes()


def test_the_scale_of_a_file_does_not_matter():
    image = np.where(wedge(60, 0), 255, scan())[None].astype(np.float32)
    for factor, full_scale in ((1.0, 255.0), (257.0, 65535.0), (1 / 255, 1.0), (1.0, 1.0)):
        assert ((without_fill(factor * image, full_scale) == 0) == (without_fill(image, 255.0) == 0)).all()


def test_the_tissue_of_a_filled_scan_is_as_bright_as_without():
    image = scan()[None].astype(np.float32)
    filled = np.where(wedge(90, 60), 255, image).astype(np.float32)
    retina = (slice(None), slice(115, 145))
    plain = normalise(image, "retina", 255.0)[retina]
    np.testing.assert_allclose(normalise(filled, "retina", 255.0)[retina], plain, atol=0.03)
    assert np.abs(normalise(filled, "tissue", 255.0)[retina] - plain).max() > 0.1, "what the rule is for"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--dataset OCT", "retina"),
        ("--dataset brats", "tissue"),
        ("--dataset OCT --preset paper", "joint"),
        ("--dataset OCT --normalise tissue", "tissue"),
    ],
)
def test_each_data_set_is_read_as_suits_it(words, expected):
    assert reading_of(get_args_parser().parse_args(words.split())).normalise == expected
