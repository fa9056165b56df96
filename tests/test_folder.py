"""The data set of a folder: order, resizing, geometry, masks, worker processes."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from uad.data.reading.folder import (
    SliceFolder,
    collate_slices,
    left_right_axis,
    resize_image,
    resize_label,
    resize_mask,
    resized_affine,
)
from uad.data.reading.formats import write_slice
from uad.data.reading.listing import labels_folder
from uad.errors import InputError

RAS = np.diag([1.0, 1.0, 2.0, 1.0])


@pytest.fixture
def brains(tmp_path):
    """Six slices of two patients with masks, two channels, 16 x 16 NIfTI; axis H runs left-right."""
    rng = np.random.default_rng(0)
    for index in range(6):
        name = f"P{index // 3}_{index % 3:03d}.nii.gz"
        write_slice(tmp_path / "brains" / name, rng.random((2, 16, 16)), RAS)
        write_slice(tmp_path / "brains_labels" / name, rng.random((16, 16)) > 0.5, RAS)
    return tmp_path / "brains"


def save_png(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, dtype=np.uint8)).save(path)


def equal_items(a, b):
    return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)


def equal(a, b):
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_items_follow_the_names(brains):
    data = SliceFolder(brains, 2, 16, "joint")
    assert data.names == ["P0_000", "P0_001", "P0_002", "P1_000", "P1_001", "P1_002"]
    assert data.patients == ["P0"] * 3 + ["P1"] * 3
    item = data[4]
    assert (item["name"], item["patient"], item["index"], len(data)) == ("P1_001", "P1", 4, 6)
    assert item["image"].shape == (2, 16, 16)
    assert item["image"].dtype == torch.float32
    assert (item["image"].min(), item["image"].max()) == (0, 1)
    assert item["label"].shape == (16, 16)
    assert item["label"].dtype == torch.uint8
    assert item["affine"].dtype == torch.float64
    np.testing.assert_array_equal(item["affine"], RAS)


def test_formats_mix_and_names_decide_the_order(tmp_path):
    ramp = 8 * np.add.outer(np.arange(16), np.arange(16))
    save_png(tmp_path / "x" / "b.png", ramp)
    save_png(tmp_path / "x" / "a.JPG", ramp)
    np.save(tmp_path / "x" / "c.npy", ramp)
    write_slice(tmp_path / "x" / "A.nii.gz", ramp, RAS)
    for name in (".hidden.png", "notes.txt"):
        (tmp_path / "x" / name).write_text("no image")
    data = SliceFolder(tmp_path / "x", 1, 16, "joint")
    assert data.names == ["A", "a", "b", "c"]
    for i in range(1, 4):
        torch.testing.assert_close(data[i]["image"], data[0]["image"], atol=0.05, rtol=0)
    assert "label" not in data[0]


def test_label_as_last_channel(tmp_path):
    image = np.random.default_rng(0).random((3, 8, 8))
    image[2] = image[2] > 0.5
    write_slice(tmp_path / "x" / "a_1.nii.gz", image, RAS)
    np.testing.assert_array_equal(SliceFolder(tmp_path / "x", 2, 8, "joint")[0]["label"], image[2])
    write_slice(tmp_path / "x_labels" / "a_1.nii.gz", image[2] > 0, RAS)
    with pytest.raises(InputError, match="one label an image"):
        SliceFolder(tmp_path / "x", 2, 8, "joint")[0]


def test_two_files_of_one_name_are_an_error(tmp_path):
    save_png(tmp_path / "a.png", np.eye(8))
    write_slice(tmp_path / "a.nii.gz", np.eye(8), RAS)
    with pytest.raises(InputError, match=r"a\.png\n.*same name as a\.nii\.gz"):
        SliceFolder(tmp_path, 1, 8, "joint")


def test_unmatched_masks_are_all_listed(brains):
    (brains / "P0_001.nii.gz").unlink()
    (labels_folder(brains) / "P1_002.nii.gz").unlink()
    with pytest.raises(InputError) as caught:
        SliceFolder(brains, 2, 16, "joint")
    assert [problem.found for problem in caught.value.problems] == [
        "an image without a mask",
        "a mask without an image",
    ]


def test_labels_folder_of_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert labels_folder(".") == tmp_path.with_name(tmp_path.name + "_labels")
    assert str(labels_folder("data/brats/")) == "data/brats_labels"


def test_values_that_normalisation_refuses_name_the_file(tmp_path):
    write_slice(tmp_path / "a.nii.gz", np.full((8, 8), 7.0), RAS)
    with pytest.raises(InputError, match=r"a\.nii\.gz\n.*values from 7 to 7"):
        SliceFolder(tmp_path, 1, 8, "none")[0]


def test_limit_spreads_over_the_folder(brains):
    assert SliceFolder(brains, 2, 16, "joint", limit=2).names == ["P0_000", "P1_000"]
    limited = SliceFolder(brains, 2, 16, "joint", limit=3)
    assert len(limited) == 3
    assert len(SliceFolder(brains, 2, 16, "joint", limit=99)) == 6
    assert torch.equal(limited[1]["image"], SliceFolder(brains, 2, 16, "joint")[2]["image"])


@pytest.mark.parametrize("size", [8, 13, 40])
def test_resizing_keeps_a_linear_ramp_where_the_affine_says(size):
    """A ramp that is linear in world coordinates has to be the same function of them after resizing.

    The tolerance is a sixth of the step between two pixels.
    """
    affine = np.array([[-2.0, 0, 0, 5], [0, 1.5, 0, -3], [0, 0, 1, 0], [0, 0, 0, 1]])

    def ramp(affine, h, w):
        index = np.stack([*np.meshgrid(np.arange(h), np.arange(w), indexing="ij"), np.zeros((h, w)), np.ones((h, w))])
        x, y = np.tensordot(affine, index, 1)[:2]
        return 0.5 + 0.003 * x + 0.004 * y

    image = torch.from_numpy(ramp(affine, 20, 30))[None].float()
    expected = ramp(resized_affine(affine, (20, 30), (size, size)), size, size)
    inner = slice(max(2, size // 10), -max(2, size // 10))  # at the border bilinear weights are cut off
    np.testing.assert_allclose(resize_image(image, size)[0, inner, inner], expected[inner, inner], atol=1e-3)


def test_resizing_keeps_the_corners_of_the_field_of_view():
    affine = np.array([[0.0, -1.2, 0.1, 30], [0.8, 0, 0, -9], [0, 0.2, 2, 4], [0, 0, 0, 1]])
    new = resized_affine(affine, (496, 768), (128, 128))
    for old_corner, new_corner in (((-0.5, -0.5), (-0.5, -0.5)), ((495.5, 767.5), (127.5, 127.5))):
        np.testing.assert_allclose(affine @ [*old_corner, 0, 1], new @ [*new_corner, 0, 1], atol=1e-9)


def test_shrinking_is_antialiased():
    """Lines in every fourth column have to become their mean, not vanish between the sampling points."""
    lines = (torch.arange(64) % 4 == 0).float().expand(1, 64, 64)
    small = resize_image(lines, 16)[0, 1:-1, 1:-1]
    torch.testing.assert_close(small, torch.full_like(small, 0.25), atol=0.05, rtol=0)


def test_masks_stay_binary_and_keep_their_share():
    mask = torch.zeros(60, 90, dtype=torch.uint8)
    mask[15:45, 30:60] = 1
    for size in (32, 128):
        small = resize_mask(mask, (size, size))
        assert set(small.unique().tolist()) == {0, 1}
        assert abs(small.float().mean() - mask.float().mean()) < 0.02
    same = torch.eye(7, dtype=torch.uint8)
    assert torch.equal(resize_mask(same, (7, 7)), same)


def test_no_lesion_vanishes_when_its_mask_is_made_smaller():
    """One between the centres of the new pixels keeps the pixel with most of it; others are as in any mask."""
    label = torch.zeros((64, 48), dtype=torch.uint8)
    label[8:24, 8:24] = 1
    plain = resize_mask(label, (16, 16))
    assert torch.equal(resize_label(label, (16, 16)), plain)
    label[40:42, 31] = 1  # rows 40 and 41 of pixel 10, column 31 of pixel 10
    label[55, 40:43] = 1  # columns 40 and 41 of pixel 13, 42 of pixel 14
    added = (resize_label(label, (16, 16)) - plain).nonzero().tolist()
    assert resize_mask(label, (16, 16)).sum() == plain.sum() and added == [[10, 10], [13, 13]]
    assert torch.equal(resize_label(torch.zeros_like(label), (16, 16)), torch.zeros((16, 16), dtype=torch.uint8))


def test_image_and_mask_stay_aligned_when_resized(tmp_path):
    image = np.zeros((100, 60))
    image[20:50, 10:40] = 255
    save_png(tmp_path / "x" / "a.png", image)
    save_png(tmp_path / "x_labels" / "a.png", image)
    item = SliceFolder(tmp_path / "x", 1, 32, "joint")[0]
    assert ((item["image"][0] > 0.5) != (item["label"] > 0)).float().mean() < 0.02


@pytest.mark.parametrize(
    ("affine", "axis"),
    [(np.eye(4), 0), (np.diag([-1, -1, 1, 1.0]), 0), (np.eye(4)[[1, 0, 2, 3]], 1)],
)
def test_left_right_follows_from_the_affine(affine, axis):
    assert left_right_axis(affine, "p1_001", "compare_sides") == axis


def test_a_sagittal_slice_has_no_left_and_right():
    with pytest.raises(InputError, match=r"(?s)p1_001.*left-right.*--no-compare_sides"):
        left_right_axis(np.eye(4)[[2, 1, 0, 3]], "p1_001", "compare_sides")


def test_worker_processes_change_nothing(brains):
    data = SliceFolder(brains, 2, 12, "percentile")
    alone, shared = (list(DataLoader(data, 4, num_workers=workers, collate_fn=collate_slices)) for workers in (0, 2))
    assert all(equal_items(a, b) for a, b in zip(alone, shared, strict=True))
    assert alone[1]["image"].shape == (2, 2, 12, 12)
    assert alone[1]["index"].tolist() == [4, 5]
    assert alone[1]["name"] == ["P1_001", "P1_002"]


def test_a_batch_keeps_the_label_of_every_item_that_has_one(brains):
    items = [SliceFolder(brains, 2, 16, "joint")[i] for i in range(3)]
    del items[1]["label"]
    labels = collate_slices(items)["label"]
    assert labels[1] is None and all(torch.equal(labels[i], items[i]["label"]) for i in (0, 2))
