"""Benchmarks as they are released: parts, classes, pairs of image and mask, and what does not fit."""

import json
from pathlib import Path

import pytest
import released_trees as trees

from uad.data.reading.checks import check_folder, data_hash
from uad.data.reading.folder import SliceFolder
from uad.data.reading.opening import Folders, open_slices
from uad.data.reading.released import Released, count_notices, list_images
from uad.data.reading.settings import Reading
from uad.errors import InputError

# layout -> its miniature, then of each part: healthy, diseased, and masked images; None: the release has no such part.
RELEASES = {
    "bmad": (trees.bmad, {"train": (6, 0, 0), "val": (2, 3, 3), "test": (2, 3, 3)}),
    "bmad without masks": (trees.bmad_images, {"train": (2, 0, 0), "val": (2, 1, 0), "test": (2, 1, 0)}),
    "mvtec": (trees.mvtec, {"train": (3, 0, 0), "val": None, "test": (2, 4, 4)}),
    "kermany": (trees.kermany, {"train": (3, 0, 0), "val": (1, 3, 0), "test": (2, 6, 0)}),
    "medianomaly": (trees.medianomaly, {"train": (3, 0, 0), "val": None, "test": (2, 2, 0)}),
    "medianomaly-brats": (trees.medianomaly_brats, {"train": (2, 0, 0), "val": None, "test": (1, 2, 2)}),
    "isic2018": (trees.isic2018, {"train": (2, 0, 0), "val": None, "test": (1, 2, 0)}),
}


def listed(root: Path, part: str, **more):
    return list_images(Released(str(root), part, **more))


def refusal(root: Path, part: str, **more) -> str:
    """The text of all that is wrong with a part, also of what stands among the problems of its listing."""
    with pytest.raises(InputError) as caught:
        check_folder(Released(str(root), part, **more), 1, trees.SIZE, "joint", workers=1)
    return str(caught.value)


def summary(root: Path, part: str, **more):
    return check_folder(Released(str(root), part, **more), 1, trees.SIZE, "joint", workers=1)


@pytest.mark.parametrize("name", RELEASES)
def test_every_part_has_its_images_classes_and_masks(tmp_path, name):
    make, parts = RELEASES[name]
    root = make(tmp_path / "set")
    for part, counts in parts.items():
        if counts is None:
            assert f"no part {part}" in refusal(root, part) or "no folder" in refusal(root, part)
            continue
        found = listed(root, part)
        assert not found.problems
        diseased = list(found.diseased.values())
        assert (diseased.count(False), diseased.count(True), len(found.masks)) == counts
        assert found.diseased.keys() == found.slices.keys() and found.masks.keys() <= found.slices.keys()
        assert f"layout {name.split()[0]}, part {part}" in str(summary(root, part))
        assert listed(root, part, layout=name.split()[0]) == found


@pytest.mark.parametrize("label", ["label", "anomaly_mask"])
def test_healthy_images_have_empty_labels_where_others_have_masks(tmp_path, label):
    place = Released(str(trees.bmad(tmp_path / "Brain", label, valid="val")), "test")
    labels = {item["name"]: int(item["label"].sum()) for item in SliceFolder(place, 1, trees.SIZE, "joint")}
    assert labels == {"00010_60": 0, "00010_61": 0, "00010_70": 16, "00011_60": 16, "00012_60": 16}
    found = summary(tmp_path / "Brain", "val")
    assert (found.labelled, found.with_lesion, found.patients) == (5, 3, 3)


def test_a_lesion_in_an_image_that_is_called_healthy_is_refused(tmp_path):
    places = {
        trees.bmad: ("test/good/label/00010_61.png", "train/good/label/00001_60.png"),
        trees.mvtec: ("ground_truth/good/001_mask.png",),
        trees.reflect: (
            "train/brain_scan_train7_slice_1_segmentation.png",
            "val/brain_scan_val7_slice_0_segmentation.png",
        ),
    }
    for make, masks in places.items():
        root = make(tmp_path / make.__name__)
        more = {"contrast": "t2"} if make is trees.reflect else {}
        for mask in masks:
            part = mask.split("/")[0].replace("ground_truth", "test")
            trees.blank(root / mask)
            found = listed(root, part, **more)
            assert summary(root, part, **more).with_lesion == sum(found.diseased.values())
            trees.mask(root / mask)
            text = refusal(root, part, **more)
            assert f"{mask}\n    found:    16 lesion pixels, and the release calls the image healthy" in text
            trees.blank(root / mask)


def test_masks_of_healthy_images_alone_are_not_those_of_the_diseased_ones(tmp_path):
    root = trees.bmad_images(tmp_path / "set")
    trees.blank(root / "test" / "good" / "label" / "1000.png")
    (root / "valid" / "good" / "label").mkdir()
    for part in ("val", "test"):
        found = listed(root, part)
        assert not found.masks and not found.problems and not found.empty


def test_without_any_mask_no_image_has_a_label(tmp_path):
    slices = SliceFolder(Released(str(trees.kermany(tmp_path / "OCT2017")), "test"), 1, trees.SIZE, "joint")
    assert all("label" not in item for item in slices)
    assert slices.diseased["NORMAL-400-1"] is False and slices.diseased["CNV-410-1"] is True
    assert slices.patients[slices.names.index("CNV-410-1")] == "410"


def test_images_of_one_name_in_two_classes_are_told_apart(tmp_path):
    found = listed(trees.bmad_images(tmp_path / "camelyon16"), "test")
    assert list(found.slices) == ["Ungood_1000", "good_1000", "good_1001"]
    slices = SliceFolder(Released(str(trees.mvtec(tmp_path / "bottle")), "test"), 1, trees.SIZE, "joint")
    assert slices.names[:2] == ["crack_000", "crack_001"]
    assert len(set(slices.patients)) == 6, "each image by itself"


def test_the_patient_of_an_image_is_told_by_its_file_also_where_its_name_is_another(tmp_path):
    """Slices of one patient, healthy and diseased, of which two have one number."""
    trees.pictures(tmp_path / "set" / "train" / "good", "p9_001.png")
    trees.pictures(tmp_path / "set" / "test" / "good", "p0_010.png", "p0_011.png", "1000.png")
    trees.pictures(tmp_path / "set" / "test" / "tumour", "p0_010.png", "p1_012.png", "1000.png")
    trees.masks(tmp_path / "set" / "ground_truth" / "tumour", "p0_010_mask.png", "p1_012_mask.png", "1000_mask.png")
    slices = open_slices(Released(str(tmp_path / "set"), "test"), Reading("custom", 1, trees.SIZE, "joint"))
    patients = dict(zip(slices.names, slices.patients, strict=True))
    assert patients == {
        "good_p0_010": "p0",
        "good_p0_011": "p0",
        "tumour_p0_010": "p0",
        "tumour_p1_012": "p1",
        "good_1000": "good_1000",
        "tumour_1000": "tumour_1000",
    }


def test_each_image_has_its_own_mask(tmp_path):
    for make, part in ((trees.mvtec, "test"), (trees.medianomaly_brats, "test"), (trees.bmad, "val")):
        found = listed(make(tmp_path / make.__name__), part)
        for name, mask in found.masks.items():
            image = found.slices[name]
            assert mask.stem.replace("_mask", "").replace("seg", "flair") == image.stem
            if make is trees.mvtec:
                assert mask.parent.name == image.parent.name


def test_diseased_images_of_the_part_train_are_left_out_and_counted(tmp_path):
    root = trees.kermany(tmp_path / "x")
    assert "9 diseased images of the part are left out" in str(summary(root, "train"))
    check_folder(Released(str(root), "train"), 1, trees.SIZE, "joint", healthy=True, workers=1)


def test_diseased_images_do_not_train(tmp_path):
    with pytest.raises(InputError, match="6 diseased images"):
        check_folder(Released(str(trees.kermany(tmp_path)), "test"), 1, trees.SIZE, "joint", healthy=True, workers=1)


def test_a_missing_mask_and_a_lone_one_are_named(tmp_path):
    root = trees.bmad(tmp_path / "set")
    (root / "test" / "Ungood" / "label" / "00011_60.png").rename(root / "test" / "Ungood" / "label" / "00099_60.png")
    text = refusal(root, "test")
    assert "2 problems" in text and "img/00011_60.png\n    found:    an image without a mask" in text
    assert "label/00099_60.png\n    found:    a mask without an image" in text


def test_a_defect_without_its_folder_of_masks_lacks_them(tmp_path):
    root = trees.mvtec(tmp_path / "set")
    for path in (root / "ground_truth" / "hole").iterdir():
        path.unlink()
    (root / "ground_truth" / "hole").rmdir()
    text = refusal(root, "test")
    assert (
        "2 problems" in text
        and "hole/000.png" in text
        and "hole/001.png\n    found:    an image without a mask" in text
    )


def test_images_that_a_table_lists_are_there(tmp_path):
    root = trees.medianomaly(tmp_path / "set")
    (root / "images" / "6.png").unlink()
    assert "images/6.png\n    found:    no such file" in refusal(root, "test")
    (root / "data.json").write_text("{")
    assert "data.json\n    found:    unreadable" in refusal(root, "test")
    (root / "data.json").write_text(json.dumps({"train": {"0": []}}))
    assert "no healthy image" in refusal(root, "train") or "no image" in refusal(root, "train")


def test_an_image_that_a_table_calls_healthy_and_diseased_is_refused(tmp_path):
    root = trees.medianomaly(tmp_path / "set")
    (root / "data.json").write_text(json.dumps({"test": {"0": ["3.png", "4.png"], "1": ["4.png", "5.png"]}}))
    assert "1 images as healthy and as diseased, e.g. 4.png" in refusal(root, "test")


@pytest.mark.parametrize(
    ("healthy", "diseased", "found"),
    [
        (["3.png", "3.png"], ["5.png"], "images/3.png\n    found:    listed twice in"),
        (["3.png"], ["a/5.png", "b/5.png"], "b/5.png\n    found:    the same name as"),
        (["3.png", "0.png"], ["5.png"], "1 images of the part test in another one, too, e.g. 0.png"),
    ],
)
def test_a_table_that_would_drop_an_image_or_test_on_a_training_image_is_refused(tmp_path, healthy, diseased, found):
    root = trees.medianomaly(tmp_path / "set")
    trees.pictures(root / "images", "a/5.png", "b/5.png")
    parts = {"train": {"0": ["0.png", "1.png"]}, "test": {"0": healthy, "1": diseased}}
    (root / "data.json").write_text(json.dumps(parts))
    assert found in refusal(root, "test")


def test_labels_other_than_those_of_the_benchmark_are_refused(tmp_path):
    root = trees.medianomaly(tmp_path / "set")
    (root / "data.json").write_text(json.dumps({"test": {"0": ["3.png"], "2": ["5.png"]}}))
    assert "the lists 0, 2 of the part test" in refusal(root, "test")


def test_what_lies_beside_images_and_masks_is_named(tmp_path):
    root = trees.bmad(tmp_path / "set", "bm_masks")
    trees.pictures(root / "test", "loose.png")
    found = summary(root, "test")
    assert (found.labelled, found.foreign, found.subfolders) == (0, ["test/loose.png"], ["Ungood/bm_masks"])
    root = trees.mvtec(tmp_path / "bottle")
    (root / "test" / "hole").rename(root / "test" / "holes")
    trees.masks(root / "ground_truth" / "holes", "000_mask.png", "001_mask.png")
    trees.pictures(root / "test", "loose.png")
    found = summary(root, "test")
    assert (found.images, found.foreign, found.subfolders) == (6, ["test/loose.png"], ["ground_truth/hole"])


def test_a_layout_that_does_not_fit_says_what_is_there_and_what_was_expected(tmp_path):
    root = trees.mvtec(tmp_path / "set")
    text = refusal(root, "test", layout="kermany")
    assert "ground_truth/, test/, train/" in text and "what fits is mvtec" in text
    assert "expected: kermany: {train,val,test}/{NORMAL,CNV,DME,DRUSEN}" in text
    text = refusal(root / "train", "test")
    assert "no release of that form: good/" in text and all(f"{name}: " in text for name in ("bmad", "reflect"))
    assert "no such folder" in refusal(tmp_path / "none", "test")


def test_an_ambiguous_tree_asks_for_the_layout(tmp_path):
    root = trees.bmad(tmp_path / "set")
    (root / "ground_truth").mkdir()
    text = refusal(root, "test")
    assert "what fits the layouts bmad and mvtec" in text and "--layout" in text
    assert len(listed(root, "test", layout="bmad").masks) == 3


def test_the_case_of_folders_does_not_matter(tmp_path):
    for make in (trees.bmad, trees.mvtec, trees.kermany, trees.medianomaly_brats):
        root = make(tmp_path / make.__name__)
        before = listed(root, "test")
        for folder in sorted((path for path in root.rglob("*") if path.is_dir()), reverse=True):
            folder.rename(folder.with_name(folder.name.title()))
        after = listed(root, "test")
        assert (len(after.slices), after.diseased, len(after.masks)) == (len(before.slices), *_renamed(before, make))


def _renamed(listing, make) -> tuple[dict[str, bool], int]:
    """The classes under the names that images have when those of their folders are written otherwise."""
    rename = str.capitalize if make is trees.mvtec else str
    return {rename(name): diseased for name, diseased in listing.diseased.items()}, len(listing.masks)


def test_names_that_stay_the_same_with_their_classes_are_refused(tmp_path):
    root = trees.mvtec(tmp_path / "set")
    for name in ("a/b_c.png", "a/x.png", "a_b/c.png", "a_b/x.png"):
        trees.picture(root / "test" / name)
        trees.mask(root / "ground_truth" / name.replace(".png", "_mask.png"))
    assert "images of two classes whose names are the same" in refusal(root, "test")


def test_symbolic_links_that_lead_nowhere_or_to_themselves_are_no_folders(tmp_path):
    root = trees.bmad(tmp_path / "set")
    before = listed(root, "test")
    for place in (root, root / "test", root / "test" / "good"):
        (place / "self").symlink_to("self")
        (place / "nowhere").symlink_to("gone")
    (root / "test" / "Ungood" / "x.png").symlink_to("x.png")
    assert listed(root, "test").slices == before.slices
    assert "no release of that form: good/" in refusal(root / "train", "test")


@pytest.mark.parametrize("make", [trees.bmad, trees.kermany])
def test_folders_of_a_part_that_are_none_of_its_classes_are_counted(tmp_path, make):
    root = make(tmp_path / "set")
    before = listed(root, "test")
    trees.pictures(root / "test" / "DRUZEN", "DRUZEN-1-1.jpeg")
    after = listed(root, "test")
    assert (after.slices, list(after.subfolders)) == (before.slices, ["test/DRUZEN"])


def test_two_folders_of_one_kind_are_refused(tmp_path):
    root = trees.bmad(tmp_path / "set")
    trees.masks(root / "test" / "Ungood" / "anomaly_mask", "00010_70.png")
    assert "anomaly_mask and label" in refusal(root, "test")
    trees.pictures(root / "val" / "good", "1.png")
    assert "the folders val and valid" in refusal(root, "val")
    trees.pictures(root / "train" / "good", "1.png")
    assert "images in img/ and beside it, e.g. 1.png" in refusal(root, "train")


def test_slices_that_show_one_contrast_each(tmp_path):
    root = trees.reflect(tmp_path / "Data")
    assert "--contrast\n    found:    not given" in refusal(root, "train")
    assert "the contrasts t1, t2" in refusal(root, "train", contrast="flair")
    train, test = (listed(root, part, contrast="t2") for part in ("train", "test"))
    assert [path.name for path in train.slices.values()] == [f"brain_scan_train7_slice_{i}_t2.png" for i in (0, 1)]
    assert set(train.diseased.values()) == {False} and not test.diseased, "of the test part masks alone tell"
    assert {mask.name for mask in test.masks.values()} == {f"{name}_segmentation.png" for name in test.slices}
    slices = SliceFolder(Released(str(root), "test", contrast="t2"), 1, trees.SIZE, "joint")
    assert set(slices.patients) == {"brain_scan_test7"}
    assert "files of the layout mvtec show one" in refusal(trees.mvtec(tmp_path / "x"), "train", contrast="t2")


def test_a_release_that_is_taken_for_a_folder_of_slices_says_what_to_do(tmp_path):
    root = trees.bmad(tmp_path / "Brain")
    with pytest.raises(InputError, match=r"of the layout bmad\n(.*\n)*.*with --split train, val or test"):
        check_folder(root, 1, trees.SIZE, "joint")
    root = trees.reflect(tmp_path / "Data")
    with pytest.raises(InputError, match=r"2 masks of the brain among the slices\b(.*\n)*.*--split train --contrast"):
        check_folder(root / "train", 1, trees.SIZE, "joint")


def test_volumes_name_the_command_that_cuts_them(tmp_path):
    (tmp_path / "Train" / "ixi" / "t2").mkdir(parents=True)
    assert "python scripts/prepare_mri.py --data_dir" in refusal(tmp_path, "train")


def test_counts_of_known_releases_are_compared(tmp_path):
    assert count_notices(tmp_path / "Brain", "bmad", "test", 3715) == []
    (notice,) = count_notices(tmp_path / "Brain_AD" / "BraTS2021_slice", "bmad", "train", 7499)
    assert notice == "7,499 images, and 7,500 were released as Brain of BMAD: some may be missing or added"
    for name, part, count in (("RESC", "train", 4297), ("Retina_RESC_AD", "val", 115), ("OCT2017", "test", 968)):
        assert count_notices(tmp_path / name, "bmad", part, count) == []
        assert count_notices(tmp_path / name, "bmad", part, count + 1)
    assert count_notices(tmp_path / "bottle", "mvtec", "test", 1) == []
    assert count_notices(tmp_path / "Brain" / "raw" / "mine", "bmad", "test", 1) == []
    assert "5 images, and 3,715 were released" in str(summary(trees.bmad(tmp_path / "Brain"), "test"))


def test_the_hash_is_of_the_part_and_of_who_is_diseased(tmp_path):
    root = trees.bmad_images(tmp_path / "a")
    hashes = {part: data_hash(Released(str(root), part)) for part in ("train", "val", "test")}
    assert len(set(hashes.values())) == 3
    (root / "test" / "good").rename(root / "test" / "x")
    (root / "test" / "Ungood").rename(root / "test" / "good")
    (root / "test" / "x").rename(root / "test" / "Ungood")
    assert data_hash(Released(str(root), "test")) != hashes["test"]


def test_flags_of_a_release_need_its_part():
    with pytest.raises(InputError, match="--layout\n    found:    bmad, without --split"):
        Folders("x", layout="bmad")
