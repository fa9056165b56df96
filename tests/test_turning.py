"""Slices lie as those of the training did: volumes, pictures and arrays are turned to where these run to."""

from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from uad.application.inputs import Item
from uad.application.opening import Chain, chain_of, open_array, open_item
from uad.data.reading.decoding import PLANE_AFFINE
from uad.data.reading.entries import Source
from uad.data.reading.facts import TrainingFacts, facts_of, lying_otherwise
from uad.data.reading.folder import read_labelled
from uad.data.reading.formats import write_slice
from uad.data.reading.layouts import Scan
from uad.data.reading.opening import open_slices
from uad.data.reading.planes import Framing
from uad.data.reading.settings import Reading
from uad.data.reading.turning import OF_VOLUMES, PICTURE, Turn, lies
from uad.errors import InputError

LPS = np.diag([-4.0, -4.0, 6.0, 1.0])
READING = Reading("custom", 1, 64, "none")
AXIAL = ["".join(pair) for one, other in (("LR", "AP"), ("AP", "LR")) for pair in product(one, other)]
SHAPE = (64, 64, 3)


def volume() -> np.ndarray:
    """(X, Y, Z): one corner of the head is bright."""
    values = np.random.default_rng(0).uniform(0.2, 0.6, SHAPE)
    values[:20, :9] = 1
    return values.astype(np.float32)


def chain(lie: str | None, framing: Framing | None = None) -> Chain:
    return chain_of(READING, TrainingFacts(("t1",), framing, lie=lie), 1.0, False)


def opened(folder: Path, lie: str | None, framing: Framing | None = None):
    path = folder / "p1.nii.gz"
    # Blocks of 4 x 4 voxels of 1 mm: the plane of 256 voxels becomes a square of 64 pixels, their means.
    nib.save(nib.Nifti1Image(np.kron(volume(), np.ones((4, 4, 1), np.float32)), np.diag([-1.0, -1.0, 6.0, 1.0])), path)
    return open_item(Item("p1", Scan("p1", folder, {"t1": Source((path,))})), chain(lie, framing))


@pytest.mark.parametrize(("start", "end"), list(product(AXIAL, AXIAL)))
def test_a_turned_slice_lies_in_the_same_place(start, end):
    """Every pixel keeps its place in the patient, and the axes run to where they are to."""
    values = np.arange(20.0).reshape(4, 5)
    affine = LPS @ nib.orientations.inv_ornt_aff(
        nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("LPS"), nib.orientations.axcodes2ornt(f"{start}S")
        ),
        (7, 7, 1),
    )
    turn = Turn(start, end)
    there = turn.there(values)
    placed = turn.affine(affine, there.shape)
    assert lies(affine) == start and lies(placed) == end and turn.possible
    np.testing.assert_array_equal(turn.back(there), values)
    for h, w in np.ndindex(there.shape):
        before = np.argwhere(values == there[h, w])[0]
        np.testing.assert_allclose(placed @ [h, w, 0, 1], affine @ [*before, 0, 1])


def test_slices_of_other_planes_cannot_be_turned():
    assert not Turn("LP", "LI").possible and not Turn("LP", "??").possible and not Turn("LP", "LL").possible


@pytest.mark.parametrize("lie", AXIAL)
def test_a_volume_lies_as_the_training_slices_and_its_map_where_the_file_is(tmp_path, lie):
    found, plain = opened(tmp_path, lie), opened(tmp_path, OF_VOLUMES)
    np.testing.assert_array_equal(found.images, Turn(OF_VOLUMES, lie).there(plain.images))
    assert lies(found.plane_affine) == lie
    np.testing.assert_array_equal(found.volume(found.images[:, 0]), plain.volume(plain.images[:, 0]))


def test_a_volume_looks_as_its_pictures_do_to_a_model_of_pictures(tmp_path):
    """Row 0 of a picture is at the front, its first pixel on the patient's right."""
    found = opened(tmp_path, PICTURE)
    for image, level in zip(found.images, found.levels, strict=True):
        picture = np.round(255 * volume()[..., level].T).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / "slice.png")
        alone = open_item(Item("slice", slice_file=tmp_path / "slice.png"), chain(PICTURE))
        np.testing.assert_allclose(alone.images[0], image, atol=3e-3)
        assert lies(alone.plane_affine) == lies(found.plane_affine) and not alone.notices


@pytest.mark.parametrize("lie", [PICTURE, OF_VOLUMES])
def test_a_network_may_take_smaller_images_than_the_preparation_made(tmp_path, lie):
    """Prepared at 128 x 128 and resized to 64 x 64, a slice lies where one does that was prepared at 64 x 64."""
    found, plain = (opened(tmp_path, lie, Framing(1.0, size)) for size in (128, READING.img_size))
    assert found.images.shape == plain.images.shape
    np.testing.assert_allclose(found.plane_affine, plain.plane_affine, atol=1e-9)
    np.testing.assert_allclose(found.images, plain.images, atol=0.2)
    volumes = [each.volume(plain.images[:, 0]) for each in (found, plain)]
    assert volumes[0].shape == volumes[1].shape and np.abs(volumes[0] - volumes[1]).max() < 0.2
    assert np.corrcoef(*map(np.ravel, volumes))[0, 1] > 0.99


@pytest.mark.parametrize("lie", [PICTURE, OF_VOLUMES])
def test_arrays_are_pictures_whatever_the_model_was_trained_on(tmp_path, lie):
    found = opened(tmp_path, lie)
    picture = volume()[..., 1].T
    array = open_array(picture[None], "a", chain(lie))
    np.testing.assert_allclose(array.images[0], found.images[1], atol=1e-6)
    np.testing.assert_allclose(array.volume(array.images[:, 0])[..., 0], picture, atol=1e-6)
    assert lies(array.plane_affine) == lie and array.shape == (64, 64, 1)


def test_models_of_earlier_versions_take_slices_as_they_lie_and_volumes_as_pictures(tmp_path):
    assert chain(None, Framing(1.0, 64)).lie == OF_VOLUMES, "their slices were prepared from volumes"
    np.testing.assert_array_equal(opened(tmp_path, None).images, opened(tmp_path, PICTURE).images)
    write_slice(tmp_path / "s.nii.gz", volume()[..., 0], LPS)
    alone = open_item(Item("s", slice_file=tmp_path / "s.nii.gz"), chain(None))
    np.testing.assert_allclose(alone.images[0, 0], volume()[..., 0], atol=1e-6)
    assert alone.notices == ("H and W run to LP; the model does not say to where in training: judged as it lies",)
    assert lies(alone.plane_affine) == OF_VOLUMES


@pytest.mark.parametrize("affine", [LPS, PLANE_AFFINE, np.eye(4)])
def test_a_training_folder_tells_how_its_slices_lie(tmp_path, affine):
    for number in range(3):
        write_slice(tmp_path / "healthy" / f"p{number}_000.nii.gz", volume()[..., number], affine)
    slices = open_slices(tmp_path / "healthy", READING)
    facts = facts_of(slices, READING)
    assert facts.lie == lies(affine) and TrainingFacts.stored({"lie": facts.lie}).lie == facts.lie
    assert not lying_otherwise(slices, facts.lie) and not lying_otherwise(slices, None)
    assert lying_otherwise(slices, "AL") == [
        f"3 of 3 slices looked at have H and W that run to {facts.lie}, those of the training to AL: "
        "they are judged as they lie."
    ]


def test_a_model_of_slices_that_are_not_axial_gets_no_volume(tmp_path):
    with pytest.raises(InputError, match="slices as in training, which run to LI"):
        opened(tmp_path, "LI")


def test_a_slice_of_another_plane_is_judged_as_it_lies_with_a_notice(tmp_path):
    coronal = np.array([[-4.0, 0, 0, 0], [0, 0, 6.0, 0], [0, -4.0, 0, 0], [0, 0, 0, 1]])
    write_slice(tmp_path / "c.nii.gz", volume()[..., 0], coronal)
    found = open_item(Item("c", slice_file=tmp_path / "c.nii.gz"), chain(PICTURE))
    assert found.notices == (f"H and W run to LI, in training to {PICTURE}: judged as it lies",)
    np.testing.assert_allclose(found.images[0, 0], volume()[..., 0], atol=1e-6)


def test_a_mask_is_turned_to_its_image_by_their_headers(tmp_path):
    """Two NIfTI files that show the same place; of a picture the rows are the first axis."""
    image = np.random.default_rng(0).uniform(size=(6, 8)).astype(np.float32)
    turn = Turn(OF_VOLUMES, "AR")
    write_slice(tmp_path / "i.nii.gz", image, LPS)
    mask = turn.there((image > 0.7).astype(np.uint8))
    write_slice(tmp_path / "m.nii.gz", mask, turn.affine(LPS, mask.shape))
    found = read_labelled(tmp_path / "i.nii.gz", tmp_path / "m.nii.gz", 1)
    np.testing.assert_array_equal(found.label, image > 0.7)
    Image.fromarray(255 * (image > 0.7).astype(np.uint8)).save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_labelled(tmp_path / "i.nii.gz", tmp_path / "m.png", 1).label, image > 0.7)
    write_slice(tmp_path / "m.nii.gz", mask, LPS[:, [0, 2, 1, 3]])
    with pytest.raises(InputError, match=r"(?s)m\.nii\.gz.*run to LS.*to LP, as those of"):
        read_labelled(tmp_path / "i.nii.gz", tmp_path / "m.nii.gz", 1)
