"""Left and right: closed forms, invariances, and what becomes of a lesion on one side."""

import numpy as np
import pytest
import torch

from bernoulli_diffusion.method import Detection
from uad.data.reading.folder import SliceFolder
from uad.data.reading.formats import write_slice
from uad.distributed import World
from uad.errors import InputError
from uad.inference import Reconstruction, detect_folder
from uad.results import ResultFolder, ResultWriter
from uad.sides import one_sided

SIZE = 32
# Left to right along columns, along rows, and across the plane.
COLUMNS, ROWS, SAGITTAL = np.eye(4)[[1, 0, 2, 3]], np.eye(4), np.eye(4)[[2, 1, 0, 3]]
NAMES = "abcde"


def across(maps: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    return one_sided(maps, images, [COLUMNS] * len(maps), NAMES[: len(maps)])


def body(columns: slice) -> torch.Tensor:
    image = torch.zeros(1, 2, SIZE, SIZE)
    image[:, 1, 4:28, columns] = 0.5
    return image


def spot(row: int, column: int, value: float = 1.0) -> torch.Tensor:
    found = torch.zeros(1, SIZE, SIZE)
    found[0, row, column] = value
    return found


def test_what_is_on_one_side_stays_and_what_is_on_both_counts_half():
    """The body's columns are 6 to 21, so that column 8 mirrors column 19."""
    image = body(slice(6, 22))
    assert torch.equal(across(spot(10, 8), image), spot(10, 8))
    torch.testing.assert_close(across(spot(10, 8) + spot(10, 19), image), (spot(10, 8) + spot(10, 19)) / 2)
    torch.testing.assert_close(across(spot(10, 8, 3) + spot(10, 19), image), spot(10, 8, 9 / 4) + spot(10, 19, 1 / 4))


def test_places_whose_mirrored_one_lies_outside_stay():
    image = body(slice(0, 10))
    maps = torch.rand(1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    found = across(maps, image)
    assert torch.equal(found[:, :, 10:], maps[:, :, 10:]) and (found[:, :, :10] < maps[:, :, :10]).all()


def test_a_mirrored_image_has_the_mirrored_map():
    generator = torch.Generator().manual_seed(0)
    maps, image = torch.rand(1, SIZE, SIZE, generator=generator), body(slice(3, 21))
    torch.testing.assert_close(across(maps.flip(2), image.flip(3)), across(maps, image).flip(2))


def test_scaling_a_map_scales_what_becomes_of_it():
    maps = torch.rand(1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    image = body(slice(5, 25))
    torch.testing.assert_close(across(7 * maps, image), 7 * across(maps, image))


@pytest.mark.parametrize("columns", [slice(0, 0), slice(0, SIZE)])
def test_without_a_body_the_middle_of_the_image_mirrors(columns):
    maps = torch.rand(1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    expected = maps * maps / (maps + maps.flip(2))
    torch.testing.assert_close(across(maps, body(columns)), expected)


def test_maps_do_not_depend_on_the_batch_and_zeros_stay():
    maps = torch.rand(5, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    maps[:, :, :7] = 0
    images = torch.cat([body(slice(start, start + 14)) for start in range(5)])
    together = across(maps, images)
    for row in range(5):
        assert torch.equal(across(maps[row : row + 1], images[row : row + 1])[0], together[row])
    assert not together[:, :, :7].any() and together.isfinite().all()


def test_left_and_right_are_where_the_affine_says():
    """Rows run from left to right here, as in the slices of NIfTI volumes; a batch may hold both."""
    maps = torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    images = body(slice(3, 21)).repeat(3, 1, 1, 1)
    expected = across(maps, images)
    rows = one_sided(maps.mT, images.mT, [ROWS] * 3, NAMES[:3])
    torch.testing.assert_close(rows, expected.mT)
    both = one_sided(torch.stack([maps[0], maps[1].T]), torch.stack([images[0], images[1].mT]), [COLUMNS, ROWS], "ab")
    assert torch.equal(both, torch.stack([expected[0], expected[1].T]))
    with pytest.raises(InputError, match=r"(?s)b\n.*--no-compare_sides"):
        one_sided(maps[:2], images[:2], [COLUMNS, SAGITTAL], "ab")


RUN = {"method": "planted", "dataset": "custom", "n_channels": 2, "img_size": SIZE, "normalise": "none", "seed": 0}


class Planted:
    def reconstruct(self, images, generators):
        return Reconstruction(images, torch.cat([spot(10, 8) + spot(10, 19)] * len(images)))


def test_the_maps_of_any_method_are_compared(tmp_path):
    folder = tmp_path / "slices"
    for row in range(3):
        write_slice(folder / f"p{row}_001.nii.gz", body(slice(6, 22))[0].numpy(), COLUMNS)
    slices = SliceFolder(folder, 2, SIZE, "none")
    found = []
    for compare in (False, True):
        writer = ResultWriter(tmp_path / f"{compare}", {**RUN, "compare_sides": compare})
        detect_folder(Planted(), slices, writer, World(0, 1, torch.device("cpu")), 2, 0, 0, compare)
        maps = [ResultFolder(writer.folder).load(name, []).anomaly_map for name in slices.names]
        found.append(np.stack(maps))
    np.testing.assert_allclose(found[1], found[0] / 2, rtol=1e-3)


def test_sides_are_compared_where_they_are_alike_unless_chosen():
    def sides(dataset, preset="recommended", **chosen):
        return Detection.preset(preset, **chosen).suited({"code_bits": "threshold", "data": {"dataset": dataset}}, None)

    assert sides("brats").compare_sides and sides("custom").compare_sides and not sides("OCT").compare_sides
    assert sides("OCT", compare_sides=True).compare_sides and not sides("brats", compare_sides=False).compare_sides
    assert not sides("brats", "paper").compare_sides
    released = Detection.preset().suited({"code_bits": "threshold"}, None)
    assert released.compare_sides, "a checkpoint that does not say what it was trained on"
