"""Contrast of images that are judged: brought halfway to that of the training images, and nowhere else."""

from dataclasses import fields, replace

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from bernoulli_diffusion.method import Detection
from bernoulli_diffusion.validation import _told
from uad.configuration import check_configuration
from uad.data.reading.contrast import LANDMARKS, SHARE, landmarks, matched, mean_contrast
from uad.data.reading.facts import contrast_of_training
from uad.data.reading.formats import write_slice
from uad.data.reading.normalise import contrast_of, normalise
from uad.data.reading.opening import Folders, open_slices
from uad.data.reading.settings import Reading, matching
from uad.data.reading.tissue import body_mask, interior
from uad.errors import InputError


def head(spread: float = 1.0, channels: int = 2, seed: int = 0, size: int = 64) -> np.ndarray:
    """A disc of smooth tissue around 100, the differences from which are `spread` times as large; 0 around it."""
    rng = np.random.default_rng(seed)
    texture = np.stack([ndimage.gaussian_filter(rng.normal(size=(size, size)), 2) for _ in range(channels)])
    tissue = 100 * (1 + 0.2 * spread * texture / texture.std())
    y, x = np.ogrid[:size, :size]
    inside = (y - size / 2) ** 2 + (x - size / 2) ** 2 < (0.42 * size) ** 2
    return np.where(inside, tissue.clip(5), 0).astype(np.float32)


def test_landmarks_move_half_of_the_way():
    image, wide = head(), head(spread=1.6)
    contrast = mean_contrast([contrast_of(image)])
    before, inner = contrast_of(wide), interior(body_mask(wide))
    after = np.stack([landmarks(channel[inner]) for channel in normalise(wide, "tissue", contrast=contrast)])
    np.testing.assert_allclose(after, before + SHARE * (np.array(contrast) - before), atol=2e-3)
    assert np.abs(after - np.array(contrast)).max() < 0.6 * np.abs(before - np.array(contrast)).max()


def test_an_image_of_the_training_contrast_stays_as_it_is():
    image = head()
    contrast = tuple(map(tuple, contrast_of(image).tolist()))
    np.testing.assert_allclose(normalise(image, "tissue", contrast=contrast), normalise(image, "tissue"), atol=1e-6)


def test_intensities_keep_their_order_and_zero():
    values, own, wanted = np.linspace(0, 1, 500), np.array([0.1, 0.4, 0.9]), np.array([0.2, 0.4, 0.6])
    moved = matched(values, own, wanted)
    assert moved[0] == 0 and (np.diff(moved) >= 0).all() and moved.max() <= 1
    np.testing.assert_allclose(np.interp(own, values, moved), own + SHARE * (wanted - own), atol=2e-3)


def test_what_is_brighter_than_all_landmarks_does_not_pale_by_itself():
    own, wanted = np.array([0.2, 0.4, 0.6]), np.array([0.2, 0.4, 0.5])
    lesion, tissue = matched(np.array([0.9, 0.6]), own, wanted)
    assert lesion - tissue == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("own", "wanted"),
    [([0.0, 0.0, 0.0], [0.2, 0.4, 0.6]), ([0.3, 0.4, 0.5], [0.0, 0.0, 0.0])],
    ids=["a channel that is missing here", "a channel that was never there"],
)
def test_a_channel_without_signal_has_no_contrast(own, wanted):
    values = np.array([0.0, 0.3, 0.7])
    np.testing.assert_array_equal(matched(values, np.array(own), np.array(wanted)), values)


def test_equal_landmarks_make_no_step_back():
    values = np.linspace(0, 1, 101)
    moved = matched(values, np.array([0.4, 0.4, 0.4]), np.array([0.2, 0.4, 0.6]))
    assert np.isfinite(moved).all() and (np.diff(moved) >= 0).all()


def test_missing_channels_do_not_count_in_the_mean():
    some, none = np.array([[0.2, 0.4, 0.6]] * 2), np.array([[0.2, 0.4, 0.8], [0.0, 0.0, 0.0]])
    assert mean_contrast([some, none]) == ((0.2, 0.4, 0.7), (0.2, 0.4, 0.6))
    assert mean_contrast([np.zeros((1, 3))]) == ((0.0, 0.0, 0.0),)


def folder_of(tmp_path, spreads):
    tmp_path.mkdir(exist_ok=True)
    for number, spread in enumerate(spreads):
        pixels = np.moveaxis(head(spread, 3, number), 0, -1)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / f"p{number}_001.png")
    return tmp_path


def test_a_folder_is_read_with_the_contrast_of_its_reading(tmp_path):
    reading = Reading("custom", 3, 64, "tissue")
    contrast = contrast_of_training(open_slices(folder_of(tmp_path / "train", (1, 1, 1)), reading), reading)
    assert np.shape(contrast) == (3, len(LANDMARKS))
    wide = folder_of(tmp_path / "wide", (1.8, 1.8))
    plain, judged = (
        open_slices(wide, each)[0]["image"].numpy() for each in (reading, replace(reading, matched_to=contrast))
    )
    spread = [np.subtract(*np.percentile(image[image > 0], (90, 10))) for image in (plain, judged)]
    wanted = np.mean([high - low for low, _, high in contrast])
    assert wanted < spread[1] < spread[0]


def test_other_normalisations_have_no_contrast(tmp_path):
    reading = Reading("custom", 3, 64, "foreground")
    assert contrast_of_training(open_slices(folder_of(tmp_path, (1,)), reading), reading) is None
    with pytest.raises(ValueError, match="belongs to 'tissue'"):
        normalise(head(), "joint", contrast=((0.2, 0.4, 0.6),) * 2)


def test_a_run_tells_the_matched_contrast_from_that_which_a_release_was_read_for():
    release = Folders("root", part="test", layout="reflect", contrast="t2").facts
    assert release["contrast"] == "t2" and not release.keys() & {field.name for field in fields(Reading)}


def test_matching_is_refused_where_the_model_knows_no_contrast():
    reading = Reading("custom", 1, 64, "tissue")
    assert matching(reading, None, False, "model.th") is reading
    with pytest.raises(InputError, match=r"(?s)--match_contrast.*model\.th stores no contrast.*--no-match_contrast"):
        matching(reading, None, True, "model.th")
    with pytest.raises(InputError, match=r"(?s)images normalised by joint.*--normalise tissue"):
        matching(replace(reading, normalise="joint"), None, True, "folder")


def test_a_training_image_without_contrast_is_named(tmp_path):
    folder = folder_of(tmp_path, (1, 1))
    write_slice(folder / "p2_001.nii.gz", -head(channels=3), np.eye(4))
    reading = Reading("custom", 3, 64, "tissue")
    with pytest.raises(InputError, match=r"p2_001\.nii\.gz"):
        contrast_of_training(open_slices(folder, reading), reading)


def test_what_is_chosen_by_default():
    def chosen(preset="recommended", contrast=((0.2, 0.4, 0.6),), **given):
        return Detection.preset(preset, **given).suited({"code_bits": "threshold"}, contrast).match_contrast

    assert chosen() and chosen("fast")
    assert not chosen("paper") and not chosen(match_contrast=False)
    assert not chosen(contrast=None), "another normalisation, an earlier version, the released code"


def test_trainings_that_are_judged_go_on_where_contrast_is_not_matched():
    told = [_told(Detection.preset(match_contrast=match)) for match in (False, True)]
    assert "match_contrast" not in told[0] and told[1]["match_contrast"]


def test_answers_of_a_version_that_did_not_match_contrast_go_on_unless_it_is_matched_now(tmp_path):
    (tmp_path / "run.json").write_text('{"seed": 0}')
    check_configuration(tmp_path / "run.json", {"seed": 0, "match_contrast": False})
    with pytest.raises(InputError, match=r"(?s)--match_contrast.*True.*False, with which"):
        check_configuration(tmp_path / "run.json", {"seed": 0, "match_contrast": True})
