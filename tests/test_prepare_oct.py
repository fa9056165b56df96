"""The preparation of the OCT2017 release: split by patient, idempotent, and clear about bad input."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from uad.data.preparing.oct import CLASSES, FOREIGN, Choice, RawImage, assign_folders, prepare
from uad.errors import InputError

SCRIPT = Path(__file__).parents[1] / "scripts" / "prepare_oct.py"
CHOICE = Choice(val_fraction=None, val_patients=1, seed=0, img_size=32, max_per_class=None)


def write_jpeg(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = np.tile(np.linspace(0, value, 64), (48, 1)).astype(np.uint8)
    Image.fromarray(ramp).save(path, quality=90)


@pytest.fixture
def raw(tmp_path) -> Path:
    """Three patients a class with two images each; one image of each class lies in `test`, one again in `val`."""
    release = tmp_path / "raw" / "OCT2017"
    for index, label in enumerate(CLASSES):
        for patient in range(3):
            name = f"{label}-{100 * index + patient}"
            write_jpeg(release / "train" / label / f"{name}-1.jpeg", 90 + 10 * patient)
            write_jpeg(release / ("test" if patient == 0 else "train") / label / f"{name}-2.jpeg", 200)
        write_jpeg(release / "val" / label / f"{label}-{100 * index}-1.jpeg", 90)
    return tmp_path / "raw"


def stems(folder: Path) -> set[str]:
    return {path.stem for path in folder.iterdir()}


def patients(folder: Path) -> set[str]:
    return {stem.split("-")[1] for stem in stems(folder)}


def run(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_split_is_by_patient_over_the_pooled_release(raw, tmp_path):
    out = tmp_path / "out"
    counts = prepare(raw, out, CHOICE, workers=2)
    assert counts == {"NORMAL": 4, "val_NORMAL": 2, "DRUSEN": 6, "CNV": 6, "DME": 6}
    assert patients(out / "NORMAL").isdisjoint(patients(out / "val_NORMAL"))
    with Image.open(next((out / "NORMAL").iterdir())) as image:
        assert image.size == (32, 32) and image.mode == "L" and image.format == "PNG"
    with (out / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 28
    repeated = [row for row in rows if row["output_folder"] == ""]
    assert len(repeated) == 4 and {row["source_split"] for row in repeated} == {"val"}


def test_data_dir_may_be_the_release_itself(raw, tmp_path):
    prepare(raw, tmp_path / "a", CHOICE, workers=1)
    prepare(raw / "OCT2017", tmp_path / "b", CHOICE, workers=1)
    for path in (tmp_path / "a" / "NORMAL").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / "NORMAL" / path.name).read_bytes()


def images_of(label: str, names: list[str]) -> list[RawImage]:
    return [
        RawImage(Path(f"{label}-{p}-{n}"), f"{label}-{p}-{n}", p, label, "train", None) for p in names for n in "12"
    ]


def test_a_patient_with_a_diseased_image_is_never_trained_on():
    images = images_of("NORMAL", ["1", "2", "3", "4"]) + images_of("DME", ["2", "9"])
    for seed in range(20):
        folders = assign_folders(images, CHOICE._replace(seed=seed))
        trained = {image.patient for image in folders["NORMAL"]}
        tested = {image.patient for name in ("val_NORMAL", "DME") for image in folders[name]}
        assert len(trained) == 2 and trained.isdisjoint(tested) and "2" in tested


def test_the_seed_chooses_and_the_fraction_counts_patients():
    images = images_of("NORMAL", [str(n) for n in range(40)])
    choice = Choice(0.25, None, 0, 0, None)
    held_out = [
        {image.patient for image in assign_folders(images, choice._replace(seed=s))["val_NORMAL"]} for s in (0, 0, 1)
    ]
    assert len(held_out[0]) == 10
    assert held_out[0] == held_out[1] != held_out[2]


def test_max_per_class_takes_whole_patients_in_seeded_order():
    images = images_of("NORMAL", [str(n) for n in range(40)]) + images_of("CNV", [str(n) for n in range(50, 60)])
    folders = assign_folders(images, CHOICE._replace(max_per_class=6))
    assert len(folders["NORMAL"]) == len(folders["CNV"]) == 6
    assert len({image.patient for image in folders["CNV"]}) == 3
    fewer = assign_folders(images, CHOICE._replace(max_per_class=4))
    assert set(fewer["CNV"]) < set(folders["CNV"])


def test_all_healthy_patients_cannot_go_to_validation():
    with pytest.raises(InputError, match="at least one patient for validation and one for training"):
        assign_folders(images_of("NORMAL", ["1", "2"]), CHOICE._replace(val_patients=2))


def test_size_zero_keeps_the_bytes(raw, tmp_path):
    prepare(raw, tmp_path / "out", CHOICE._replace(img_size=0), workers=1)
    kept = tmp_path / "out" / "CNV" / "CNV-201-1.jpeg"
    assert kept.read_bytes() == (raw / "OCT2017" / "train" / "CNV" / "CNV-201-1.jpeg").read_bytes()


def test_masks_follow_their_images(raw, tmp_path):
    for path in (raw / "OCT2017").glob("*/DRUSEN/*.jpeg"):
        mask = np.zeros((48, 64), np.uint8)
        mask[:24, :32] = 255
        target = raw / "OCT2017" / f"{path.parts[-3]}_labels" / "DRUSEN" / f"{path.stem}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(target)
    prepare(raw, tmp_path / "out", CHOICE, workers=1)
    assert stems(tmp_path / "out" / "DRUSEN_labels") == stems(tmp_path / "out" / "DRUSEN")
    mask = np.asarray(Image.open(tmp_path / "out" / "DRUSEN_labels" / "DRUSEN-101-1.png"))
    assert (mask[:16, :16] == 255).all() and mask.sum() == 255 * 16 * 16
    assert not (tmp_path / "out" / "CNV_labels").exists()
    (raw / "OCT2017" / "train_labels" / "DRUSEN" / "DRUSEN-101-1.png").unlink()
    with pytest.raises(InputError, match="masks for 6 of 7 images"):
        prepare(raw, tmp_path / "other", CHOICE, workers=1)


def test_images_are_prepared_as_viewers_show_them(raw, tmp_path):
    """Of a release with EXIF orientations the masks were drawn on what viewers show."""
    path = raw / "OCT2017" / "train" / "DME" / "DME-301-1.jpeg"
    ramp = np.tile(np.linspace(0, 200, 48), (64, 1)).astype(np.uint8)  # 64 rows, 48 columns
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(ramp))).save(path, quality=95, exif=exif)
    mask = raw / "OCT2017" / "train_labels" / "DME" / "DME-301-1.png"
    mask.parent.mkdir(parents=True)
    Image.fromarray((ramp > 100).astype(np.uint8) * 255).save(mask)
    for image in {*(raw / "OCT2017").glob("*/DME/*.jpeg")} - {path}:
        other = raw / "OCT2017" / f"{image.parts[-3]}_labels" / "DME" / f"{image.stem}.png"
        other.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((48, 64), np.uint8)).save(other)
    prepare(raw, tmp_path / "out", CHOICE, workers=1)
    with Image.open(tmp_path / "out" / "DME" / "DME-301-1.png") as image:
        assert np.corrcoef(np.asarray(image)[0], np.arange(32))[0, 1] > 0.99


def test_rerun_finishes_and_touches_nothing_else(raw, tmp_path):
    out = tmp_path / "out"
    prepare(raw, out, CHOICE, workers=1)
    first, second = sorted((out / "NORMAL").iterdir())[:2]
    content, time = first.read_bytes(), second.stat().st_mtime_ns
    first.unlink()
    prepare(raw, out, CHOICE, workers=1)
    assert first.read_bytes() == content and second.stat().st_mtime_ns == time


@pytest.mark.parametrize("size", [32, 0])
def test_what_the_release_has_otherwise_is_prepared_anew(raw, tmp_path, size):
    """Masks that were added or taken away, and an image that was fetched again."""
    out, choice = tmp_path / "out", CHOICE._replace(img_size=size)

    def prepared(name: str) -> np.ndarray:
        (path,) = (out / "CNV").glob(f"{name}.*")
        return np.asarray(Image.open(path).convert("L"))

    prepare(raw, out, choice, workers=1)
    before = prepared("CNV-202-2")
    masks = []
    for path in (raw / "OCT2017").glob("*/CNV/*.jpeg"):
        masks.append(raw / "OCT2017" / f"{path.parts[-3]}_labels" / "CNV" / f"{path.stem}.png")
        masks[-1].parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((48, 64), 255, np.uint8)).save(masks[-1])
    fetched = raw / "OCT2017" / "train" / "CNV" / "CNV-202-2.jpeg"
    fetched.unlink()
    write_jpeg(fetched, 20)
    prepare(raw, out, choice, workers=1)
    assert stems(out / "CNV_labels") == stems(out / "CNV")
    assert prepared("CNV-202-2").max() < 30 < before.max()
    for mask in masks:
        mask.unlink()
    prepare(raw, out, choice, workers=1)
    assert not stems(out / "CNV_labels")


def test_another_configuration_in_the_same_folder_is_refused(raw, tmp_path):
    out = tmp_path / "out"
    prepare(raw, out, CHOICE, workers=1)
    with pytest.raises(InputError) as caught:
        prepare(raw, out, CHOICE._replace(seed=5, img_size=64), workers=1)
    assert {problem.where for problem in caught.value.problems} == {"--seed", "--img_size"}


def test_another_release_in_the_same_folder_is_refused_but_not_another_spelling(raw, tmp_path, monkeypatch):
    out = tmp_path / "out"
    prepare(raw, out, CHOICE, workers=1)
    monkeypatch.chdir(tmp_path)
    prepare(Path("raw/../raw"), Path("out"), CHOICE, workers=1)
    shutil.copytree(raw, tmp_path / "copy")
    with pytest.raises(InputError, match="--data_dir"):
        prepare(tmp_path / "copy", out, CHOICE, workers=1)


def test_foreign_images_in_the_output_are_refused(raw, tmp_path):
    write_jpeg(tmp_path / "out" / "NORMAL" / "NORMAL-7-1.jpeg", 50)
    with pytest.raises(InputError, match="an image that this command does not make"):
        prepare(raw, tmp_path / "out", CHOICE, workers=1)


def test_foreign_files_are_counted_and_stop_nothing(raw, tmp_path):
    names = (".DS_Store", "._CNV-1-1.jpeg", "Thumbs.db", "desktop.ini", "MANIFEST.TXT", "list.csv")
    for name in names:
        (raw / "OCT2017" / "train" / "CNV" / name).write_bytes(b"\0")
        (tmp_path / "out" / "CNV").mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / "CNV" / name).write_bytes(b"\0")
    (raw / "OCT2017" / "test" / "DME" / "__MACOSX").mkdir()
    counts = prepare(raw, tmp_path / "out", CHOICE, workers=1)
    assert counts == {"NORMAL": 4, "val_NORMAL": 2, "DRUSEN": 6, "CNV": 6, "DME": 6, FOREIGN: 7}


@pytest.mark.parametrize("name", ["scan.png", "CNV-1-1.tif", "CNV-201-1.JPEG.jpeg", "CNV-1.bmp", "more"])
def test_images_of_other_names_and_folders_remain_errors(raw, tmp_path, name):
    path = raw / "OCT2017" / "train" / "CNV" / name
    path.mkdir() if name == "more" else path.write_bytes(b"\0")
    with pytest.raises(InputError, match=name):
        prepare(raw, tmp_path / "out", CHOICE, workers=1)


def test_all_problems_are_reported_together(raw, tmp_path):
    train = raw / "OCT2017" / "train"
    damaged = train / "DME" / "DME-301-1.jpeg"
    os.truncate(damaged, damaged.stat().st_size // 2)
    (train / "CNV" / "CNV-201-1.jpeg").rename(train / "CNV" / "scan.jpeg")
    write_jpeg(train / "NORMAL" / "DME-1-1.jpeg", 90)
    write_jpeg(raw / "OCT2017" / "val" / "NORMAL" / "NORMAL-0-1.jpeg", 10)
    result = run("--data_dir", raw, "--out", tmp_path / "out", "--workers", 1)
    assert result.returncode == 2
    assert "4 problems" in result.stderr
    for name in (damaged.name, "scan.jpeg", "DME-1-1.jpeg", "NORMAL-0-1.jpeg"):
        assert name in result.stderr
    assert not (tmp_path / "out").exists()


def test_truncated_images_are_all_named_and_can_be_mended(raw, tmp_path):
    damaged = [raw / "OCT2017" / "train" / "DME" / f"DME-30{n}-1.jpeg" for n in (1, 2)]
    contents = [path.read_bytes() for path in damaged]
    for path in damaged:
        os.truncate(path, 400)
    with pytest.raises(InputError) as caught:
        prepare(raw, tmp_path / "out", CHOICE, workers=1)
    assert [problem.where for problem in caught.value.problems] == [str(path) for path in damaged]
    assert not (tmp_path / "out" / "manifest.csv").exists()
    for path, content in zip(damaged, contents, strict=True):
        path.write_bytes(content)
    assert prepare(raw, tmp_path / "out", CHOICE, workers=1)["DME"] == 6


def test_missing_folder_and_missing_classes(raw, tmp_path):
    result = run("--data_dir", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert result.returncode == 2 and "no such folder" in result.stderr
    for split in ("train", "test", "val"):
        for path in (raw / "OCT2017" / split / "CNV").glob("*"):
            path.unlink()
    with pytest.raises(InputError, match="no image of class CNV"):
        prepare(raw, tmp_path / "out", CHOICE, workers=1)


def test_command_prepares_and_refuses_flags_without_meaning(raw, tmp_path):
    out = tmp_path / "out"
    result = run("--data_dir", raw, "--out", out, "--img_size", 32, "--val_patients", 1, "--workers", 1)
    assert result.returncode == 0, result.stderr
    assert "NORMAL 4, val_NORMAL 2, DRUSEN 6" in result.stdout
    refused = run("--data_dir", raw, "--out", tmp_path / "no", "--img_size", 3, "--workers", 0, "--val_fraction", 1.5)
    assert refused.returncode == 2 and "3 problems" in refused.stderr
