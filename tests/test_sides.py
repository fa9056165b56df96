"""Left and right: closed forms, invariances, and what becomes of a lesion on one side."""

import pytest
import torch

from uad.inference import Reconstruction
from uad.sides import one_sided, with_sides

SIZE = 32


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
    assert torch.equal(one_sided(spot(10, 8), image), spot(10, 8))
    torch.testing.assert_close(one_sided(spot(10, 8) + spot(10, 19), image), (spot(10, 8) + spot(10, 19)) / 2)
    torch.testing.assert_close(
        one_sided(spot(10, 8, 3) + spot(10, 19), image), spot(10, 8, 9 / 4) + spot(10, 19, 1 / 4)
    )


def test_places_whose_mirrored_one_lies_outside_stay():
    image = body(slice(0, 10))
    maps = torch.rand(1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    found = one_sided(maps, image)
    assert torch.equal(found[:, :, 10:], maps[:, :, 10:]) and (found[:, :, :10] < maps[:, :, :10]).all()


def test_a_mirrored_image_has_the_mirrored_map():
    generator = torch.Generator().manual_seed(0)
    maps, image = torch.rand(1, SIZE, SIZE, generator=generator), body(slice(3, 21))
    torch.testing.assert_close(one_sided(maps.flip(2), image.flip(3)), one_sided(maps, image).flip(2))


def test_scaling_a_map_scales_what_becomes_of_it():
    maps = torch.rand(1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    image = body(slice(5, 25))
    torch.testing.assert_close(one_sided(7 * maps, image), 7 * one_sided(maps, image))


@pytest.mark.parametrize("columns", [slice(0, 0), slice(0, SIZE)])
def test_without_a_body_the_middle_of_the_image_mirrors(columns):
    maps = torch.rand(1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    expected = maps * maps / (maps + maps.flip(2))
    torch.testing.assert_close(one_sided(maps, body(columns)), expected)


def test_maps_do_not_depend_on_the_batch_and_zeros_stay():
    maps = torch.rand(5, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    maps[:, :, :7] = 0
    images = torch.cat([body(slice(start, start + 14)) for start in range(5)])
    together = one_sided(maps, images)
    for row in range(5):
        assert torch.equal(one_sided(maps[row : row + 1], images[row : row + 1])[0], together[row])
    assert not together[:, :, :7].any() and together.isfinite().all()


class Planted:
    def reconstruct(self, images, generators):
        return Reconstruction(image=images, anomaly_map=spot(10, 8) + spot(10, 19), extras={"evidence": images[:, 0]})


def test_a_method_keeps_all_but_its_map():
    image, method = body(slice(6, 22)), Planted()
    plain, compared = (with_sides(method, compare).reconstruct(image, []) for compare in (False, True))
    torch.testing.assert_close(compared.anomaly_map, plain.anomaly_map / 2)
    assert compared.image is image and torch.equal(compared.extras["evidence"], plain.extras["evidence"])
