"""Phantoms of the OCT2017 release: retinas with drusen, choroidal neovascularisation and macular oedema.

The files have the release's layout and names, so that the real preparation runs on them, and beside every
diseased image lies what the release lacks, an exact mask:

    OUT/OCT2017/{train,test,val}/{NORMAL,DRUSEN,CNV,DME}/CLASS-<patient>-<n>.jpeg
    OUT/OCT2017/{train,test,val}_labels/{DRUSEN,CNV,DME}/CLASS-<patient>-<n>.png

A patient of `val` may also be in `train`, for the release does not promise otherwise. Scan k of patient i
depends on (seed, i, k) only.

What the masks hold. DRUSEN and CNV: all from the displaced front of the pigment epithelium, and of any
fluid or material on it, back to Bruch's membrane, where the displacement is at least MIN_HEIGHT rows. DME:
the cysts, the subretinal fluid and the hard exudates. Thickening of the retina around lesions, shadows
behind them and lost photoreceptor bands are not in the mask.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter1d
from tqdm import tqdm

from uad.data.phantoms.retina import Scan, add_spot, add_vessels, draw_patient, healthy_scan, render, smooth_curve
from uad.errors import input_error
from uad.files import written_whole

CLASS_CYCLE = ("NORMAL", "DRUSEN", "CNV", "DME", "NORMAL", "NORMAL")
SCANS_PER_PATIENT = 6
HEIGHT = 496
WIDTHS = (512, 768)
JPEG_QUALITY = 75  # the quantisation table of the release's files
MIN_HEIGHT = 2.5


class Work(NamedTuple):
    """One image to make: index and scan number, where it belongs, and its name without extension."""

    patient: int
    scan: int
    split: str
    label: str
    stem: str


def patient_class(patient: int) -> str:
    """Class of a patient: half are NORMAL, and the diseases share the rest."""
    return CLASS_CYCLE[patient % len(CLASS_CYCLE)]


def patient_id(patient: int) -> int:
    """A number as in the release, different for every patient below 9,999,991 (a prime)."""
    return 1 + (patient + 1) * 7_368_787 % 9_999_991


def work_of(patients: int) -> Iterator[Work]:
    """All images of a release with that many patients.

    Of every five rounds of the class cycle the fifth goes to `test`, and of the fourth every first scan
    to `val`.
    """
    for patient in range(patients):
        label, turn = patient_class(patient), patient // len(CLASS_CYCLE) % 5
        for scan in range(SCANS_PER_PATIENT):
            split = "test" if turn == 4 else "val" if turn == 3 and scan == 0 else "train"
            yield Work(patient, scan, split, label, f"{label}-{patient_id(patient)}-{scan + 1}")


def _bump(columns: np.ndarray, centre: float, radius: float, height: float, power: float) -> np.ndarray:
    """A dome of half-width `radius`; the power is 2 for a bell and more for a plateau."""
    return height * np.exp(-((np.abs(columns - centre) / radius) ** power))


def _column_near_fovea(rng: np.random.Generator, scan: Scan, spread_mm: float) -> float:
    """A column at a normally distributed distance from the fovea, inside the picture."""
    columns = np.arange(scan.mm.size)
    wanted = np.interp(rng.normal(0, spread_mm), scan.mm, columns)
    return float(np.clip(wanted, 25, scan.mm.size - 26))


def _lift(scan: Scan, height: np.ndarray, give: float) -> None:
    """Let the layers in front take up part of a displacement of `height` rows behind them, (W,).

    The surface follows a smoothed (1 - give) of it, as far as the outer nuclear layer (to a quarter of its
    thickness) and then the inner layers (to half of theirs) can give way.
    """
    follows = (1 - give) * gaussian_filter1d(height, 20) - height
    for names, least in ((("onl",), 0.25), (("opl", "inl", "ipl", "gcl"), 0.5)):
        room = sum(scan.thickness[name] for name in names)
        change = np.maximum(follows, (least - 1) * room)
        for name in names:
            scan.thickness[name] = scan.thickness[name] * (1 + change / np.maximum(room, 1))
        follows = follows - change


def _lose_photoreceptors(scan: Scan, loss: np.ndarray) -> None:
    """Fade the external limiting membrane and the ellipsoid band by `loss` (W,) in [0, 1]."""
    for name in ("elm", "myoid", "ez", "os"):
        faded = 0.85 * scan.reflectivity["onl"] + 0.04
        scan.reflectivity[name] = scan.reflectivity[name] * (1 - loss) + faded * loss


def _mark_displaced(scan: Scan, names: tuple[str, ...]) -> None:
    """Add to the mask the columns' rows from the front of the lesion's layers to Bruch's membrane."""
    height = sum(scan.thickness[name] for name in names)
    tops = scan.tops()
    front = tops["iz"] - scan.thickness["material"] - scan.thickness["fluid"]
    rows = np.arange(scan.height)[:, None]
    scan.lesion |= (rows >= front - 0.5) & (rows < scan.bruch + 0.5) & (height >= MIN_HEIGHT)


def add_drusen(rng: np.random.Generator, scan: Scan) -> None:
    """Deposits under the pigment epithelium: a few large domes, or many small ones that may run together."""
    columns = np.arange(scan.mm.size)
    deposit = np.zeros(columns.size)
    soft = rng.random() < 0.55
    for _ in range(rng.integers(1, 6) if soft else rng.integers(4, 14)):
        centre = _column_near_fovea(rng, scan, 0.9)
        height = rng.uniform(6, 24) if soft else rng.uniform(3.5, 9)
        radius = rng.uniform(0.9, 2.2) * height if soft else rng.uniform(4, 10)
        deposit = np.maximum(deposit, _bump(columns, centre, radius, height, rng.uniform(2, 3.2)))
    deposit *= np.clip(1 + 0.07 * smooth_curve(rng, columns.size, 5), 0.7, 1.3)
    scan.thickness["deposit"] += deposit
    scan.reflectivity["deposit"] = rng.uniform(0.28, 0.52) * (1 + 0.1 * smooth_curve(rng, columns.size, 6))
    _lift(scan, deposit, 0.8)
    _lose_photoreceptors(scan, np.clip((deposit - 7) / 14, 0, 0.85))
    _mark_displaced(scan, ("deposit",))


def add_neovascularisation(rng: np.random.Generator, scan: Scan) -> None:
    """A fibrovascular complex under and over the ragged pigment epithelium, with fluid on its flanks."""
    columns = np.arange(scan.mm.size)
    centre, radius = _column_near_fovea(rng, scan, 0.5), rng.uniform(35, 95)
    dome = _bump(columns, centre, radius, rng.uniform(7, 42), rng.uniform(2, 4))
    inside = _bump(columns, centre, 1.1 * radius, 1, 4)
    ragged = np.abs(1 + 0.2 * smooth_curve(rng, columns.size, 9) + 0.1 * smooth_curve(rng, columns.size, 3.5))
    scan.thickness["deposit"] += dome * ragged + inside * rng.uniform(0, 4) * np.abs(smooth_curve(rng, columns.size, 5))
    scan.reflectivity["deposit"] = rng.uniform(0.25, 0.5) * (1 + 0.15 * smooth_curve(rng, columns.size, 8))
    if rng.random() < 0.6:
        at = centre + rng.uniform(-0.6, 0.6) * radius
        material = _bump(columns, at, rng.uniform(0.3, 0.8) * radius, rng.uniform(5, 18), 2.5)
        scan.thickness["material"] += material * np.abs(1 + 0.25 * smooth_curve(rng, columns.size, 6))
        scan.reflectivity["material"] = rng.uniform(0.36, 0.62) * (1 + 0.1 * smooth_curve(rng, columns.size, 7))
    if rng.random() < 0.75:
        for side in (-1, 1):
            at = centre + side * rng.uniform(0.8, 1.5) * radius
            height = rng.uniform(2, 16) * (rng.random() < 0.75)
            scan.thickness["fluid"] += _bump(columns, at, rng.uniform(18, 55), height, 2.4)
        scan.reflectivity["fluid"] = np.full(columns.size, rng.uniform(0.03, 0.16))
    for name in ("iz", "gap", "rpe"):
        broken = 1 - inside * np.clip(0.12 + 0.16 * smooth_curve(rng, columns.size, 5), 0, 0.5)
        scan.reflectivity[name] = scan.reflectivity[name] * broken
    displaced = sum(scan.thickness[name] for name in ("deposit", "material", "fluid"))
    _lift(scan, displaced, 0.35)
    _lose_photoreceptors(scan, np.clip(inside, 0, 0.9))
    scan.shadow *= 1 - inside * np.clip(0.08 + 0.07 * smooth_curve(rng, columns.size, 2), 0, 0.4)
    _mark_displaced(scan, ("deposit", "material", "fluid"))


def add_macular_oedema(rng: np.random.Generator, scan: Scan) -> None:
    """Cysts in the nuclear layers of a thickened retina, fluid under it, hard exudates with shadows."""
    columns = np.arange(scan.mm.size)
    centre, radius = _column_near_fovea(rng, scan, 0.45), rng.uniform(35, 110)
    swelling = _bump(columns, centre, 1.15 * radius, rng.uniform(6, 40), 2.3)
    scan.thickness["onl"] += 0.65 * swelling
    scan.thickness["inl"] += 0.3 * swelling
    scan.thickness["opl"] += 0.05 * swelling
    if rng.random() < 0.3:
        fluid = _bump(columns, centre + rng.normal(0, 15), rng.uniform(25, 70), rng.uniform(4, 20), 2.4)
        scan.thickness["fluid"] += fluid
        scan.reflectivity["fluid"] = np.full(columns.size, rng.uniform(0.03, 0.16))
        rows, tops = np.arange(scan.height)[:, None], scan.tops()
        scan.lesion |= (rows >= tops["fluid"] - 0.5) & (rows < tops["material"] + 0.5) & (fluid >= MIN_HEIGHT)
    _add_cysts(rng, scan, centre, radius)
    if rng.random() < 0.6:
        _add_exudates(rng, scan, centre, radius)


def _add_cysts(rng: np.random.Generator, scan: Scan, centre: float, radius: float) -> None:
    """Round to upright, rough-edged, dark cavities around a column, mostly in the outer nuclear layer."""
    tops, turbidity = scan.tops(), rng.uniform(0.02, 0.17)
    for _ in range(rng.integers(2, 16)):
        column = int(np.clip(rng.normal(centre, 0.5 * radius), 8, scan.mm.size - 9))
        upper, lower = ("opl", "elm") if rng.random() < 0.65 else ("inl", "opl")
        room = tops[lower][column] - tops[upper][column]
        height = rng.uniform(0.22, 0.46) * room
        if height < 2:
            continue
        row = tops[upper][column] + rng.uniform(height, max(room - height, height))
        radii = (height, height * rng.uniform(0.5, 1.15))
        scan.lesion |= add_spot(scan, (row, column), radii, turbidity * rng.uniform(0.8, 1.25), 0.2, rng)


def _add_exudates(rng: np.random.Generator, scan: Scan, centre: float, radius: float) -> None:
    """Small bright lipid deposits near the outer plexiform layer, with a shadow behind each."""
    columns, tops = np.arange(scan.mm.size), scan.tops()
    for _ in range(rng.integers(1, 12)):
        column = int(np.clip(rng.normal(centre, radius), 4, columns.size - 5))
        size = rng.uniform(1.2, 4.0)
        row = rng.uniform(tops["opl"][column] - 4, 0.5 * (tops["opl"][column] + tops["elm"][column]))
        scan.lesion |= add_spot(scan, (row, column), (size, 1.2 * size), rng.uniform(0.48, 0.75), 0.3, rng)
        scan.shadow *= 1 - _bump(columns, column, size, rng.uniform(0.05, 0.3), 3)


LESIONS: dict[str, Callable[[np.random.Generator, Scan], None]] = {
    "DRUSEN": add_drusen,
    "CNV": add_neovascularisation,
    "DME": add_macular_oedema,
}


def _white_borders(rng: np.random.Generator, shown: np.ndarray, retina_from: float) -> np.ndarray:
    """Mask (H, W) of the white wedges that registration leaves above and below; they spare the retina."""
    height, width = shown.shape
    rows = np.arange(height)[:, None]
    across = np.linspace(0, 1, width)
    white = np.zeros(shown.shape, bool)
    if rng.random() < 0.6:
        ends = np.minimum(np.abs(rng.normal(0, 40, 2)), max(retina_from - 12, 0))
        white |= rows < np.round(ends[0] + (ends[1] - ends[0]) * across)
    if rng.random() < 0.25:
        ends = np.abs(rng.normal(0, 9, 2))
        white |= rows >= height - np.round(ends[0] + (ends[1] - ends[0]) * across)
    return white


def oct_scan(seed: int, patient: int, scan: int) -> tuple[np.ndarray, np.ndarray]:
    """Scan number `scan` (from 0) of a patient: image (496, 512 or 768) uint8 and lesion mask, bool."""
    eye = draw_patient(np.random.default_rng(np.random.SeedSequence((seed, patient))))
    # A SeedSequence takes (s, p) and (s, p, 0) for the same, so the scans count from 1 here.
    rng = np.random.default_rng(np.random.SeedSequence((seed, patient, scan + 1)))
    shape = (HEIGHT, int(rng.choice(WIDTHS, p=(0.7, 0.3))))
    off_fovea = 0.45 * (scan - (SCANS_PER_PATIENT - 1) / 2) + rng.normal(0, 0.1)
    anatomy = healthy_scan(rng, eye, shape, off_fovea)
    label = patient_class(patient)
    while label != "NORMAL" and not anatomy.lesion.any():
        LESIONS[label](rng, anatomy)
    add_vessels(rng, anatomy)
    shown = render(rng, anatomy, eye)
    white = _white_borders(rng, shown, float(anatomy.tops()["nfl"].min()))
    shown[white] = 1
    return np.round(255 * shown).astype(np.uint8), anatomy.lesion & ~white


def _make(root: Path, seed: int, work: Work) -> None:
    """Write one image, and before it its mask: an image that exists is complete."""
    path = root / work.split / work.label / f"{work.stem}.jpeg"
    if path.exists():
        return
    image, lesion = oct_scan(seed, work.patient, work.scan)
    if work.label != "NORMAL":
        with written_whole(root / f"{work.split}_labels" / work.label / f"{work.stem}.png") as temporary:
            Image.fromarray(lesion.astype(np.uint8) * 255).save(temporary)
    with written_whole(path) as temporary:
        Image.fromarray(image).save(temporary, quality=JPEG_QUALITY)


def make_oct_release(out: Path, patients: int, seed: int, workers: int) -> None:
    """Write a phantom release of `patients` patients, six scans each, below OUT/OCT2017; what exists is kept.

    patients: at least 5, so that every class and a second healthy patient exist, else InputError.
    workers: processes to make them with.
    """
    if patients < 5:
        raise input_error(
            "--patients",
            str(patients),
            "5 or more: every class, and healthy patients on both sides of a split",
            "ask for more patients",
        )
    work = list(work_of(patients))
    make = partial(_make, Path(out) / "OCT2017", seed)
    # Processes are spawned, for the caller may have threads, which a fork does not survive.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for _ in tqdm(pool.map(make, work, chunksize=8), total=len(work), desc="OCT phantoms", unit="image"):
            pass
