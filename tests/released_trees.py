"""Miniatures of released benchmarks: a few small pictures in the folders of each layout."""

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 32


def picture(path: Path) -> None:
    """A random image of a disc, drawn by the file's place."""
    rng = np.random.default_rng(sum(map(ord, "/".join(path.parts[-4:]))))
    y, x = np.mgrid[:SIZE, :SIZE]
    disc = (np.hypot(y - SIZE / 2, x - SIZE / 2) < SIZE / 3) * rng.uniform(80, 160)
    _save(path, (disc + rng.uniform(1, 40, (SIZE, SIZE))).astype(np.uint8))


def mask(path: Path) -> None:
    """A mask of 0 and 255 with a lesion of 16 pixels."""
    array = np.zeros((SIZE, SIZE), np.uint8)
    array[12:16, 12:16] = 255
    _save(path, array)


def blank(path: Path) -> None:
    """A mask without a lesion."""
    _save(path, np.zeros((SIZE, SIZE), np.uint8))


def _save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def pictures(folder: Path, *names: str) -> None:
    for name in names:
        picture(folder / name)


def masks(folder: Path, *names: str) -> None:
    for name in names:
        mask(folder / name)


def bmad(root: Path, label: str = "label", valid: str = "valid") -> Path:
    """Train 6; valid and test 2 healthy and 3 diseased."""
    pictures(root / "train" / "good" / "img", *(f"0000{i}_60.png" for i in range(6)))
    for part in (valid, "test"):
        pictures(root / part / "good" / "img", "00010_60.png", "00010_61.png")
        diseased = ("00010_70.png", "00011_60.png", "00012_60.png")
        pictures(root / part / "Ungood" / "img", *diseased)
        masks(root / part / "Ungood" / label, *diseased)
    return root


def bmad_images(root: Path) -> Path:
    """Without masks; files of different classes share their names."""
    pictures(root / "train" / "good", "1000.png", "1001.png")
    for part in ("valid", "test"):
        pictures(root / part / "good", "1000.png", "1001.png")
        pictures(root / part / "Ungood", "1000.png")
    return root


def mvtec(root: Path) -> Path:
    pictures(root / "train" / "good", "000.png", "001.png", "002.png")
    for defect in ("good", "crack", "hole"):
        pictures(root / "test" / defect, "000.png", "001.png")
    for defect in ("crack", "hole"):
        masks(root / "ground_truth" / defect, "000_mask.png", "001_mask.png")
    return root


def kermany(root: Path) -> Path:
    for part, count in (("train", 3), ("val", 1), ("test", 2)):
        for number, name in enumerate(("NORMAL", "CNV", "DME", "DRUSEN")):
            pictures(root / part / name, *(f"{name}-{len(part)}{number}{i}-{i + 1}.jpeg" for i in range(count)))
    return root


def medianomaly(root: Path) -> Path:
    names = [f"{i}.png" for i in range(7)]
    pictures(root / "images", *names)
    parts = {"train": {"0": names[:3], "unlabeled": {"0": names[:1]}}, "test": {"0": names[3:5], "1": names[5:]}}
    (root / "data.json").write_text(json.dumps(parts))
    return root


def medianomaly_brats(root: Path) -> Path:
    pictures(root / "train", "BraTS2021_00000_flair_60.png", "BraTS2021_00001_flair_60.png")
    pictures(root / "test" / "normal", "BraTS2021_00002_flair_60.png")
    pictures(root / "test" / "tumor", "BraTS2021_00003_flair_60.png", "BraTS2021_00003_flair_61.png")
    masks(root / "test" / "annotation", "BraTS2021_00003_seg_60.png", "BraTS2021_00003_seg_61.png")
    return root


def isic2018(root: Path) -> Path:
    for part, kinds in (("Training", (1, 1, 0)), ("Test", (1, 0, 0))):
        stem = f"ISIC2018_Task3_{part}"
        rows = [(f"ISIC_{len(part)}{i}", float(kind)) for i, kind in enumerate(kinds)]
        pictures(root / f"{stem}_Input", *(f"{name}.jpg" for name, _ in rows))
        (root / f"{stem}_GroundTruth").mkdir()
        with (root / f"{stem}_GroundTruth" / f"{stem}_GroundTruth.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("image", "MEL", "NV"), *((name, 1 - nv, nv) for name, nv in rows)])
    return root


def reflect(root: Path) -> Path:
    for part, count in (("train", 2), ("val", 1), ("test", 2)):
        for i in range(count):
            stem = root / part / f"brain_scan_{part}7_slice_{i}"
            pictures(root / part, *(f"{stem.name}_{shows}.png" for shows in ("t1", "t2", "brainmask")))
            if part == "test":
                mask(stem.with_name(f"{stem.name}_segmentation.png"))
    return root
