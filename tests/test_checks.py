"""Checks of a folder: every kind of damage is found, all in one go, with a remedy; sound folders pass."""

import tracemalloc

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from uad.data.reading.checks import check_disjoint, check_folder, data_hash
from uad.data.reading.formats import read_mask, write_slice
from uad.errors import InputError


def image(seed=0, shape=(2, 16, 16)):
    return np.random.default_rng(seed).random(shape)


@pytest.fixture
def brains(tmp_path):
    """Four sound slices of two patients, two channels, with masks, of which the last shows a lesion."""
    folder = tmp_path / "brains"
    for index in range(4):
        name = f"P{index // 2}_{index % 2:03d}.nii.gz"
        write_slice(folder / name, image(index), np.eye(4))
        mask = np.zeros((16, 16), dtype=np.uint8)
        mask[4:6, 4:6] = index == 3
        write_slice(tmp_path / "brains_labels" / name, mask, np.eye(4))
    return folder


def problems_of(folder, **options):
    arguments = {"n_channels": 2, "img_size": 16, "normalise": "joint", **options}
    with pytest.raises(InputError) as caught:
        check_folder(folder, **arguments)
    for problem in caught.value.problems:
        assert problem.where and problem.found and problem.expected and problem.remedy
    return caught.value.problems


def only_problem(folder, **options):
    (problem,) = problems_of(folder, **options)
    return problem


def labels(folder):
    return folder.with_name("brains_labels")


def test_a_sound_folder_is_summarised(brains):
    write_slice(brains / "P2_000.nii.gz", 40 * image(9, (2, 30, 20)) - 7, np.eye(4))
    write_slice(labels(brains) / "P2_000.nii.gz", np.zeros((30, 20), dtype=np.uint8), np.eye(4))
    summary = check_folder(brains, 2, 16, "percentile", batch_size=5, need_labels=True)
    assert (summary.images, summary.patients, summary.labelled, summary.with_lesion) == (5, 3, 5, 1)
    assert (summary.resized, summary.distorted, summary.flat_channel) == (1, 1, 0)
    assert summary.sizes == {(16, 16): 4, (30, 20): 1}
    assert -7 <= summary.minimum < -6
    assert 32 < summary.maximum <= 33
    assert "5 images of 3 patients" in str(summary)


def test_masks_that_say_0_for_the_lesion_are_noticed(brains):
    assert "look whether" not in str(check_folder(brains, 2, 16, "joint"))
    for path in labels(brains).iterdir():
        write_slice(path, 1 - read_mask(path), np.eye(4))
    assert "4 of 4 lesions take more than half" in str(check_folder(brains, 2, 16, "joint"))


def test_a_missing_folder_shows_the_expected_tree(tmp_path):
    problem = only_problem(tmp_path / "nowhere")
    assert problem.found == "no such folder"
    assert "train_healthy" in problem.expected
    (tmp_path / "file").write_text("")
    assert only_problem(tmp_path / "file").found == "a file"


def test_an_empty_folder_says_what_was_looked_for_and_what_is_there(tmp_path):
    assert "nothing" in only_problem(tmp_path).found
    (tmp_path / "brats" / "train_healthy").mkdir(parents=True)
    (tmp_path / "brats" / "readme.txt").write_text("")
    problem = only_problem(tmp_path / "brats")
    assert "readme.txt" in problem.found
    assert ".nii.gz" in problem.expected
    assert "train_healthy" in problem.remedy


def test_fewer_images_than_a_batch(brains):
    problem = only_problem(brains, batch_size=5)
    assert problem.found == "4 images"
    assert "--batch_size to 4" in problem.remedy
    assert check_folder(brains, 2, 16, "joint", batch_size=4).images == 4


def test_wrong_channels_are_reported_for_every_file(brains):
    found = problems_of(brains, n_channels=4)
    assert len(found) == 4
    assert all("2 channels" in problem.found for problem in found)


def test_a_volume_in_place_of_slices(brains):
    nib.save(nib.Nifti1Image(image(0, (20, 18, 19)), np.eye(4)), brains / "P0_000.nii.gz")
    problem = only_problem(brains)
    assert "volume" in problem.found
    assert "prepare_mri" in problem.remedy


def test_too_small_images(brains):
    assert check_folder(brains, 2, 32, "joint").resized == 4
    found = problems_of(brains, img_size=33)
    assert len(found) == 4
    assert "16 x 16" in found[0].found
    assert "at least 17" in found[0].expected


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_values(brains, value):
    bad = image()
    bad[1, 3, 3:5] = value
    write_slice(brains / "P0_000.nii.gz", bad, np.eye(4))
    problem = only_problem(brains)
    assert problem.where.endswith("P0_000.nii.gz")
    assert "2 values are NaN or infinite" in problem.found


@pytest.mark.parametrize("how", ["joint", "percentile", "foreground", "none"])
def test_constant_images(brains, how):
    write_slice(brains / "P1_000.nii.gz", np.full((2, 16, 16), 0.25), np.eye(4))
    assert "constant image, 0.25" in only_problem(brains, normalise=how).found


def test_a_constant_channel_is_counted_but_allowed(brains):
    flat = image()
    flat[1] = 0
    write_slice(brains / "P1_000.nii.gz", flat, np.eye(4))
    assert check_folder(brains, 2, 16, "joint").flat_channel == 1


def test_a_constant_that_was_added_is_noticed(brains):
    def said(how: str) -> bool:
        return "without dark pixels" in str(check_folder(brains, 2, 16, how))

    assert not said("tissue")
    for path in list(brains.glob("*.nii.gz")):
        image = nib.load(path)
        nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32) + 1000, image.affine), path)
    assert said("tissue") and said("percentile") and not said("joint")


def test_range_is_checked_only_when_nothing_rescales(brains):
    write_slice(brains / "P1_000.nii.gz", 3 * image(), np.eye(4))
    problem = only_problem(brains, normalise="none")
    assert "not in [0, 1]" in problem.found
    assert "--normalise" in problem.remedy
    check_folder(brains, 2, 16, "joint")


def test_truncated_files_of_each_format(brains, tmp_path):
    path = brains / "P0_001.nii.gz"
    path.write_bytes(path.read_bytes()[:-20])
    assert "cannot be decoded" in only_problem(brains).found
    folder = tmp_path / "oct"
    folder.mkdir()
    Image.fromarray((255 * image(0, (40, 40))).astype(np.uint8)).save(folder / "NORMAL-7-1.jpeg")
    content = (folder / "NORMAL-7-1.jpeg").read_bytes()
    (folder / "NORMAL-7-2.jpeg").write_bytes(content[: len(content) // 2])
    problem = only_problem(folder, n_channels=1)
    assert problem.where.endswith("NORMAL-7-2.jpeg")
    assert "truncated" in problem.found


def test_images_without_masks_and_masks_without_images(brains):
    (brains / "P0_000.nii.gz").unlink()
    (labels(brains) / "P1_001.nii.gz").unlink()
    found = {problem.found: problem.where for problem in problems_of(brains)}
    assert found["a mask without an image"].endswith("brains_labels/P0_000.nii.gz")
    assert found["an image without a mask"].endswith("brains/P1_001.nii.gz")


def test_masks_that_are_needed(tmp_path):
    write_slice(tmp_path / "x" / "a_1.nii.gz", image(), np.eye(4))
    problem = only_problem(tmp_path / "x", need_labels=True)
    assert problem.found == "an image without a mask"
    assert "x_labels" in problem.expected
    with_label = np.concatenate([image(), np.eye(16)[None]])
    write_slice(tmp_path / "x" / "a_1.nii.gz", with_label, np.eye(4))
    assert check_folder(tmp_path / "x", 2, 16, "joint", need_labels=True).with_lesion == 1


def test_an_empty_mask_folder_is_reported(tmp_path):
    write_slice(tmp_path / "x" / "a_1.nii.gz", image(), np.eye(4))
    (tmp_path / "x_labels").mkdir()
    assert only_problem(tmp_path / "x").where.endswith("x_labels")


def test_masks_that_are_grey_or_of_another_size(brains):
    write_slice(labels(brains) / "P0_000.nii.gz", image(0, (16, 16)), np.eye(4))
    write_slice(labels(brains) / "P0_001.nii.gz", np.zeros((16, 15), dtype=np.uint8), np.eye(4))
    grey, size = problems_of(brains)
    assert "256 different values" in grey.found
    assert size.found == "a mask of size (16, 15)"
    assert "(16, 16)" in size.expected


def test_standardised_images_and_the_rule_for_raw_ones(brains):
    write_slice(brains / "P1_000.nii.gz", image() - 0.5, np.eye(4))
    problem = only_problem(brains, normalise="tissue")
    assert "negative intensities" in problem.found
    assert "--normalise foreground" in problem.remedy
    check_folder(brains, 2, 16, "foreground")


def test_colour_files_taken_as_grey_are_counted(tmp_path):
    colour = np.repeat((255 * image(0, (40, 40, 1))).astype(np.uint8), 3, axis=2)
    Image.fromarray(colour).save(tmp_path / "a.png")
    assert "taken as grey" not in str(check_folder(tmp_path, 1, 16, "joint"))
    colour[3, :10] = (255, 0, 0)
    Image.fromarray(colour).save(tmp_path / "b.png")
    assert "1 colour file taken as grey" in str(check_folder(tmp_path, 1, 16, "joint"))


def test_a_file_that_may_not_be_read_asks_for_permission(brains, monkeypatch):
    """Root may read all, so the system's answer is put in its place."""

    def denied(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("uad.data.reading.decoding.gzip.open", denied)
    problem = problems_of(brains)[0]
    assert problem.found == "cannot be opened: Permission denied"
    assert "chmod" in problem.remedy and "damaged" not in problem.remedy


def test_lesions_in_a_healthy_folder(brains, tmp_path):
    problem = only_problem(brains, healthy=True)
    assert problem.where.endswith("brains_labels/P1_001.nii.gz")
    assert problem.found.startswith("4 lesion pixels")
    with_label = np.concatenate([image(), np.eye(16)[None]])
    write_slice(tmp_path / "x" / "a_1.nii.gz", with_label, np.eye(4))
    assert only_problem(tmp_path / "x", healthy=True).found.startswith("16 lesion pixels")


def test_all_problems_come_together(brains):
    write_slice(brains / "P0_000.nii.gz", np.zeros((2, 16, 16)), np.eye(4))
    write_slice(brains / "P0_001.nii.gz", np.full((2, 16, 16), np.nan), np.eye(4))
    Image.fromarray(np.eye(16, dtype=np.uint8)).save(brains / "P1_000.png")
    (brains / "P1_001.nii.gz").write_bytes(b"")
    found = [problem.found for problem in problems_of(brains, batch_size=50)]
    for words in ("same name", "4 images", "constant", "NaN", "cannot be decoded"):
        assert sum(words in text for text in found) == 1, words
    assert len(found) == 5


def test_the_number_of_workers_changes_nothing(brains):
    assert check_folder(brains, 2, 16, "joint", workers=1) == check_folder(brains, 2, 16, "joint", workers=3)


def test_images_are_not_kept_in_memory(tmp_path):
    for index in range(60):
        np.save(tmp_path / f"a_{index}.npy", image(index, (256, 256)).astype(np.float32))
    tracemalloc.start()
    try:
        check_folder(tmp_path, 1, 256, "joint", workers=2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 60 * 256 * 256 * 4, "all images together"


def test_the_same_patient_in_train_and_test(tmp_path):
    for folder, names in (("train", ("P1_001", "P1_002", "P2_001")), ("test", ("P1_009", "P3_001"))):
        for name in names:
            write_slice(tmp_path / folder / f"{name}.nii.gz", image(), np.eye(4))
    with pytest.raises(InputError) as caught:
        check_disjoint(tmp_path / "train", tmp_path / "test")
    (problem,) = caught.value.problems
    assert problem.where == str(tmp_path / "test")
    assert problem.found.startswith("patient P1: 1 slice(s) here and 2 in")
    (tmp_path / "test" / "P1_009.nii.gz").unlink()
    check_disjoint(tmp_path / "train", tmp_path / "test")


def test_oct_patients_are_told_apart_across_classes(tmp_path):
    for path in ("NORMAL/NORMAL-12-1.png", "DRUSEN/DRUSEN-12-1.png", "DRUSEN/DRUSEN-13-1.png"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / path)
    with pytest.raises(InputError, match="patient 12") as caught:
        check_disjoint(tmp_path / "NORMAL", tmp_path / "DRUSEN")
    assert len(caught.value.problems) == 1


def test_the_hash_of_a_folder_is_that_of_its_names_and_bytes(brains, tmp_path):
    first = data_hash(brains)
    (brains / "P0_000.nii.gz").touch()
    assert data_hash(brains, workers=1) == first
    assert data_hash(f"{brains}/") == first, "however the folder is spelled"
    seen = {first}
    for change in (
        lambda: write_slice(labels(brains) / "P0_000.nii.gz", np.eye(16, dtype=np.uint8), np.eye(4)),
        lambda: write_slice(brains / "P0_000.nii.gz", image(99), np.eye(4)),
        lambda: (brains / "P0_000.nii.gz").rename(brains / "P9_000.nii.gz"),
        lambda: (brains / "P9_000.nii.gz").unlink(),
    ):
        change()
        seen.add(data_hash(brains))
    assert len(seen) == 5
