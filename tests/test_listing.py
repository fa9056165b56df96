"""What lies in a folder of slices: links, masks beside images, foreign files, folders named like files."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from uad.data.reading.checks import check_disjoint, check_folder, data_hash
from uad.data.reading.folder import SliceFolder
from uad.data.reading.formats import write_slice
from uad.data.reading.listing import labels_folder, list_folder
from uad.errors import InputError

RAMP = np.add.outer(np.arange(16), np.arange(16)).astype(np.uint8)


def save(*paths: Path, array=RAMP) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)


def save_masks(*paths: Path) -> None:
    save(*paths, array=np.eye(16, dtype=np.uint8))


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        check_folder(folder, 1, 16, "joint")
    return str(caught.value)


@pytest.fixture
def tumours(tmp_path) -> Path:
    """Two slices with masks in a folder beside them."""
    folder = tmp_path / "store" / "tumours"
    save(folder / "p1_0.png", folder / "p1_1.png")
    save_masks(tmp_path / "store" / "tumours_labels" / "p1_0.png", tmp_path / "store" / "tumours_labels" / "p1_1.png")
    return folder


def test_masks_are_found_beside_what_a_link_leads_to(tumours, tmp_path):
    (tmp_path / "second").symlink_to(Path("store/tumours"))
    link = tmp_path / "healthy"
    link.symlink_to("second")
    assert check_folder(link, 1, 16, "joint").with_lesion == 2
    assert "label" in SliceFolder(link, 1, 16, "joint")[0]
    assert data_hash(link) == data_hash(tumours)
    with pytest.raises(InputError, match="lesion pixels in a folder of healthy images"):
        check_folder(link, 1, 16, "joint", healthy=True)


def test_masks_are_found_beside_the_link_itself(tmp_path):
    save(tmp_path / "store" / "x" / "a.png")
    (tmp_path / "x").symlink_to(tmp_path / "store" / "x")
    save_masks(tmp_path / "x_labels" / "a.png")
    assert check_folder(tmp_path / "x", 1, 16, "joint").with_lesion == 1


def test_two_folders_of_masks_are_refused_unless_they_are_one(tumours, tmp_path):
    (tmp_path / "link").symlink_to(tumours)
    (tmp_path / "link_labels").symlink_to(labels_folder(tumours))
    assert check_folder(tmp_path / "link", 1, 16, "joint").with_lesion == 2
    (tmp_path / "link_labels").unlink()
    save_masks(tmp_path / "link_labels" / "p1_0.png", tmp_path / "link_labels" / "p1_1.png")
    text = refusal(tmp_path / "link")
    assert str(tmp_path / "link_labels") in text and str(labels_folder(tumours)) in text


def test_a_folder_of_masks_that_is_none_is_refused(tumours):
    masks = labels_folder(tumours)
    masks.rename(masks.with_name("moved"))
    masks.symlink_to(masks)
    assert f"{masks}\n    found:    a symbolic link that leads nowhere or to itself" in refusal(tumours)
    masks.unlink()
    masks.write_text("")
    assert f"{masks}\n    found:    a file" in refusal(tumours)


def test_links_to_themselves_are_not_followed(tmp_path):
    folder = tmp_path / "x"
    save(folder / "a.png")
    (folder / "again").symlink_to(folder)
    (folder / "list.txt").symlink_to("list.txt")
    summary = check_folder(folder, 1, 16, "joint")
    assert (summary.images, summary.foreign, summary.subfolders) == (1, ["list.txt"], ["again"])
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "leads nowhere or to itself" in refusal(tmp_path / "loop")
    (folder / "b.png").symlink_to("b.png")
    (folder / "c.png").symlink_to("gone.png")
    text = refusal(folder)
    assert "2 problems" in text and f"{folder / 'b.png'}\n" in text
    assert "c.png\n    found:    a symbolic link that leads nowhere or to itself" in text
    for read in (data_hash, lambda path: check_disjoint(path, path)):
        with pytest.raises(InputError):
            read(tmp_path / "loop")


@pytest.mark.parametrize(
    "pattern",
    ["{}_mask.png", "{}_seg.tif", "{}-label.png", "{}_Segmentation.nii.gz", "{}_ground_truth.png", "mask_{}.png"],
)
def test_a_mask_beside_every_image_is_taken(tmp_path, pattern):
    for name in ("a", "b"):
        save(tmp_path / f"{name}.png")
        mask = tmp_path / pattern.format(name)
        if pattern.endswith(".nii.gz"):
            write_slice(mask, np.eye(16, dtype=np.uint8), np.eye(4))
        else:
            save_masks(mask)
    summary = check_folder(tmp_path, 1, 16, "joint")
    assert (summary.images, summary.labelled, summary.with_lesion, summary.masks_beside) == (2, 2, 2, True)
    assert "named like them" in str(summary)
    data = SliceFolder(tmp_path, 1, 16, "joint")
    assert data.names == ["a", "b"]
    np.testing.assert_array_equal(data[0]["label"], np.eye(16))
    before = data_hash(tmp_path)
    (tmp_path / pattern.format("a")).write_bytes(b"another mask")
    assert data_hash(tmp_path) != before


def test_the_layout_of_kaggle_3m_is_read(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(3):
        stem = tmp_path / f"TCGA_CS_4941_19960909_{index}"
        save(stem.with_name(f"{stem.name}.tif"), array=rng.integers(0, 255, (16, 16, 3)).astype(np.uint8))
        save(stem.with_name(f"{stem.name}_mask.tif"), array=np.uint8(255) * np.eye(16, dtype=np.uint8))
    summary = check_folder(tmp_path, 3, 16, "joint")
    assert (summary.images, summary.patients, summary.with_lesion) == (3, 1, 3)


def test_masks_beside_some_images_are_one_problem(tmp_path):
    save(*(tmp_path / f"{name}.png" for name in "abc"))
    save_masks(tmp_path / "a_mask.png", tmp_path / "d_mask.png")
    text = refusal(tmp_path)
    assert "1 problem with" in text
    assert "2 files named like masks, e.g. a_mask.png, beside 3 images: 2 images have none, 1 have no image" in text
    assert "_labels" in text and "scripts/prepare_mri.py" in text


def test_masks_beside_the_images_and_in_a_folder_are_refused(tmp_path):
    save(tmp_path / "x" / "a.png")
    save_masks(tmp_path / "x" / "a_mask.png", tmp_path / "x_labels" / "a.png")
    text = refusal(tmp_path / "x")
    assert "1 problem with" in text and "x_labels" in text and "one of the two places" in text


def test_two_masks_of_an_image_are_refused(tmp_path):
    save(tmp_path / "a.png")
    save_masks(tmp_path / "a_mask.png", tmp_path / "a_seg.png")
    assert "2 files named like masks" in refusal(tmp_path)


def test_images_that_are_all_named_like_masks_are_images(tmp_path):
    save(tmp_path / "a_label.png", tmp_path / "b_label.png")
    assert check_folder(tmp_path, 1, 16, "joint").images == 2


def test_foreign_files_are_counted_and_stop_nothing(tmp_path):
    save(tmp_path / "a.png")
    names = [".DS_Store", "._a.png", "MANIFEST.TXT", "Thumbs.db", "desktop.ini", "x.csv", "x.json"]
    for name in names:
        (tmp_path / name).write_bytes(b"\0")
    (tmp_path / "__MACOSX").mkdir()
    summary = check_folder(tmp_path, 1, 16, "joint")
    assert (summary.images, sorted(summary.foreign), summary.subfolders) == (1, names, ["__MACOSX"])
    assert "7 foreign files: .DS_Store, ._a.png, MANIFEST.TXT, Thumbs.db, desktop.ini, ..." in str(summary)
    assert "1 subfolder not looked into: __MACOSX" in str(summary)
    for path in (*map(tmp_path.joinpath, names), tmp_path / "__MACOSX"):
        path.rmdir() if path.is_dir() else path.unlink()
    lines = str(check_folder(tmp_path, 1, 16, "joint")).splitlines()
    assert len(lines) == 3, "nothing to notice"


def test_foreign_files_among_the_masks_stop_nothing(tumours):
    (labels_folder(tumours) / "Thumbs.db").write_bytes(b"\0")
    assert check_folder(tumours, 1, 16, "joint").labelled == 2


def test_a_folder_named_like_a_file_says_what_it_holds(tmp_path):
    save(tmp_path / "a.png")
    held = tmp_path / "p1_flair.nii" / "W39_1998.nii"
    held.parent.mkdir()
    held.write_bytes(b"")
    (tmp_path / "p2.nii.gz").mkdir()
    text = refusal(tmp_path)
    assert "p1_flair.nii\n    found:    a folder that is named like a file, and holds W39_1998.nii" in text
    assert "move the file out of it" in text and "is empty" in text
    (tmp_path / "a.png").unlink()
    assert "holds W39_1998.nii" in refusal(tmp_path), "also where there is nothing else"


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path):
    save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    assert "b.png\n    found:    neither a file nor a folder" in refusal(tmp_path)


def test_a_folder_that_may_not_be_listed_asks_for_permission(tmp_path, monkeypatch):
    save(tmp_path / "a.png")

    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", denied)
    text = refusal(tmp_path)
    assert "Permission denied" in text and "chmod u+r" in text and "damaged" not in text


def test_a_listing_is_sorted_by_name(tmp_path):
    save(tmp_path / "b.png", tmp_path / "a.tif", tmp_path / "A.png")
    assert list(list_folder(tmp_path).slices) == ["A", "a", "b"]
