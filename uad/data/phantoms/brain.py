"""Brain MRI phantoms in the layout, names and number format of the raw BraTS2020 training release.

A patient is a warped MNI152 brain with sharpened tissue maps, four sequences (t1, t1ce, t2, flair) with
their own contrast, bias field, texture and Rician noise, and a tumour. Everything about patient i is a
function of (seed, i).
"""

import csv
import gzip
import io
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import torch

from uad.data.phantoms import fields, tumour
from uad.files import write_text, written_whole

RELEASE_FOLDER = "MICCAI_BraTS2020_TrainingData"
MODALITIES = ("t1", "t1ce", "t2", "flair")

# Medians seen in real cases, intensity range 0..1 (rows grey, white, CSF; columns as MODALITIES).
CONTRAST = np.array([[0.60, 0.43, 0.40, 0.68], [0.82, 0.55, 0.28, 0.57], [0.25, 0.15, 0.86, 0.30]], np.float32)
CONTRAST_JITTER = np.array([0.045, 0.035, 0.045, 0.045], np.float32)

# Appearance of lesion parts, same range, centre values; jittered per patient.
OEDEMA_LOOK = np.array([0.54, 0.39, 0.74, 1.02], np.float32)
DIFFUSE_LOOK = np.array([0.50, 0.36, 0.76, 0.98], np.float32)
ENHANCING_LOOK = np.array([0.60, 0.90, 0.60, 0.90], np.float32)
NECROTIC_LOOK = np.array([0.36, 0.26, 0.84, 0.60], np.float32)


class Patient(NamedTuple):
    """images: (4, 240, 240, 155) int16 in the order of MODALITIES; labels: (240, 240, 155) uint8 of 0, 1,
    2, 4.
    """

    images: np.ndarray
    labels: np.ndarray
    plan: tumour.TumourPlan


class Head(NamedTuple):
    """tissue: (3, BOX) grey, white, CSF fractions summing to 1 in the brain; caps: (BOX) 0..1; brain: (BOX)
    bool.
    """

    tissue: np.ndarray
    caps: np.ndarray
    brain: np.ndarray


def patient_name(number: int) -> str:
    """Folder name of patient `number` (from 1), as in the release."""
    return f"BraTS20_Training_{number:03d}"


def make_patient(seed: int, number: int) -> Patient:
    """Make one patient (numbered from 1); takes about two seconds on one core."""
    plan = tumour.draw_plan(seed, number)
    rng = np.random.default_rng((seed, number, 3))
    template = fields.load_template()
    points = fields.head_coordinates(rng)
    coarse_white = fields.sample_template(template.maps[1:2], points, template.origin)[0]
    depth = fields.sample_template(template.depth[None], points, template.origin)[0]
    foci = tumour.place_foci(plan, coarse_white, depth, rng)
    head = _make_head(template, tumour.push_aside(points, foci, plan, depth), rng)
    lesion = tumour.grow(plan, foci, head.tissue, head.brain, rng)
    images = np.zeros((len(MODALITIES), *fields.VOLUME_SHAPE), np.int16)
    labels = np.zeros(fields.VOLUME_SHAPE, np.uint8)
    box = tuple(slice(a, a + n) for a, n in zip(fields.BOX_START, fields.BOX, strict=True))
    images[(slice(None), *box)] = _acquire(head, lesion, plan, rng)
    labels[box] = lesion.labels
    return Patient(images, labels, plan)


def _make_head(template: fields.Template, points: np.ndarray, rng: np.random.Generator) -> Head:
    """Sample the tissue maps and sharpen them.

    The MNI152 maps are averages of many brains, hence blurred at the cortex. Raising the fractions to a
    power after a random local change of their odds gives each patient crisp gyri and sulci of its own.
    """
    maps = fields.sample_template(template.maps, points, template.origin, fields.BOX)
    tissue, caps = maps[:3], maps[3]
    brain = tissue.sum(0) > 0.5
    inside = np.clip(tissue[:, brain], 0, 1)
    folds = fields.smooth_noise(rng, 7.0, fields.BOX)[brain]
    ridges = fields.smooth_noise(rng, 4.0, fields.BOX)[brain]
    odds = np.log(inside + 0.012)
    odds[0] += 0.10 * ridges
    odds[1] += 0.22 * folds + rng.normal(0, 0.06)
    odds[2] += -0.25 * folds + 0.22 * ridges + rng.normal(0.4, 0.15) + 0.3 * rng.random() * caps[brain]
    weights = np.exp(2.6 * (odds - odds.max(0)))
    tissue[:, brain] = weights / weights.sum(0)
    tissue[:, ~brain] = 0
    return Head(tissue, caps, brain)


def _acquire(head: Head, lesion: tumour.Lesion, plan: tumour.TumourPlan, rng: np.random.Generator) -> np.ndarray:
    """Intensities of the four sequences, (4, BOX) int16, background 0, each with its own scanner scale."""
    brain = head.brain
    tissue = head.tissue[:, brain]
    contrast = CONTRAST + rng.normal(0, 1, CONTRAST.shape).astype(np.float32) * CONTRAST_JITTER
    textures = [fields.smooth_noise(rng, length, fields.BOX)[brain] for length in (3.0, 9.0, 22.0)]
    signals = contrast.T @ tissue
    _add_anatomy(signals, head, textures, rng)
    _add_lesion(signals, contrast, tissue, lesion, plan, brain, textures, rng)
    images = np.zeros((len(MODALITIES), *fields.BOX), np.int16)
    for channel in range(len(MODALITIES)):
        images[channel][brain] = _scan(signals[channel], brain, rng)
    return images


def _add_anatomy(signals: np.ndarray, head: Head, textures: list[np.ndarray], rng: np.random.Generator) -> None:
    """Normal variation that a detector must live with, added in place to (4, voxels) signals.

    FLAIR and T2 bright periventricular caps and small white-matter foci, incomplete CSF suppression,
    brighter limbic cortex, and vessels (bright after contrast, flow voids on T2 and FLAIR).
    """
    grey, white, csf = head.tissue[:, head.brain]
    caps = head.caps[head.brain]
    fine, middle, broad = textures
    matter = 1 - csf
    cap_signal = rng.uniform(0.1, 0.42) * caps * matter * np.clip(0.6 + 0.4 * middle, 0, 1.5)
    spots = rng.uniform(0.0, 0.3) * white * np.clip(3 * (middle + 0.5 * fine - 2.1), 0, 1)
    signals[3] += cap_signal + spots + 0.03 * grey * broad + 0.10 * csf * np.clip(broad, -1, 2)
    signals[2] += 0.5 * (cap_signal + spots) + 0.03 * grey * broad
    signals[0] -= 0.35 * (cap_signal + spots)
    signals[1] -= 0.25 * (cap_signal + spots)
    # Where two independent fields vanish together lies a net of curves: the vessels, kept to the sulci.
    lines = [fields.smooth_noise(rng, 9.0, fields.BOX)[head.brain] for _ in range(2)]
    vessels = np.exp(-(lines[0] ** 2 + lines[1] ** 2) / 0.02) * np.clip(1.4 * csf + 0.15 * grey, 0, 1)
    signals[1] += rng.uniform(0.25, 0.6) * vessels
    signals[0] += 0.12 * vessels
    signals[2] -= 0.35 * vessels
    signals[3] -= 0.08 * vessels
    for channel, amplitude in enumerate((0.016, 0.014, 0.022, 0.020)):
        signals[channel] += amplitude * (0.6 * fine + middle + broad) * matter


def _add_lesion(
    signals: np.ndarray,
    contrast: np.ndarray,
    tissue: np.ndarray,
    lesion: tumour.Lesion,
    plan: tumour.TumourPlan,
    brain: np.ndarray,
    textures: list[np.ndarray],
    rng: np.random.Generator,
) -> None:
    """Replace tissue by lesion in place; signals is (4, voxels), tissue (3, voxels).

    Grey matter takes on oedema less than white matter. The iso-intense kind only mixes grey and white
    matter into one swollen, coarsely textured tissue; the faint kind is a diffuse lesion at part of its
    strength.
    """
    where = np.flatnonzero(lesion.oedema[brain] > 1e-3)
    fine, middle, _ = (texture[where] for texture in textures)
    grey, white, csf = tissue[:, where]
    jitter = rng.normal(0, [0.03, 0.02, 0.05, 0.05]).astype(np.float32)
    if plan.kind == "isointense":
        look = 0.6 * contrast[0] + 0.4 * contrast[1] + np.array([-0.03, -0.02, 0.08, 0.05], np.float32)
    else:
        look = (OEDEMA_LOOK if plan.core else DIFFUSE_LOOK) + jitter
    grain = np.array([-0.03, -0.02, 0.05, 0.05], np.float32)[:, None] * (0.8 * middle + 0.5 * fine)
    take = plan.strength * (1.0 * white + 0.7 * grey + 0.25 * csf)
    blend = take * lesion.oedema[brain][where]
    part = signals[:, where]
    part += blend * (look[:, None] + grain - part)
    for fraction, core_look in ((lesion.enhancing, ENHANCING_LOOK), (lesion.necrotic, NECROTIC_LOOK)):
        core = core_look + rng.normal(0, 0.05, 4).astype(np.float32)
        part += 0.92 * fraction[brain][where] * (core[:, None] + 1.2 * grain - part)
    signals[:, where] = part


def _scan(signal: np.ndarray, brain: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bias field, Rician noise and scanner scale: (voxels,) int16, at least 1 so that brain differs from
    background.
    """
    bias = fields.smooth_noise(rng, 90.0, fields.BOX)[brain]
    bias = np.exp(rng.uniform(0.06, 0.13) * bias)
    signal = np.clip(signal, 0.02, None) * bias
    level = rng.uniform(0.018, 0.042) * float(np.median(signal))
    # The imaginary part matters only where the signal is near 0, so the grain of the real part is enough.
    imaginary = rng.standard_normal(len(signal), dtype=np.float32)
    magnitude = np.hypot(signal + level * _grainy_noise(brain, rng), level * imaginary)
    scale = np.exp(rng.uniform(np.log(150), np.log(1200)))
    return np.clip(np.rint(magnitude * scale), 1, 32767).astype(np.int16)


def _grainy_noise(brain: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Unit-variance noise with the short in-plane correlation that interpolation to 1 mm leaves, at brain
    voxels.
    """
    noise = np.zeros(brain.shape, np.float32)
    noise[brain] = rng.standard_normal(int(brain.sum()), dtype=np.float32)
    for axis in (0, 1):
        noise += 0.6 * np.roll(noise, 1, axis)
    return noise[brain] / 1.36


def write_patient(folder: Path, patient: Patient) -> None:
    """Write the five volumes of one patient, each whole; the segmentation comes last."""
    volumes = dict(zip(MODALITIES, patient.images, strict=True), seg=patient.labels.astype(np.int16))
    for name, volume in volumes.items():
        image = nib.Nifti1Image(volume, fields.AFFINE)
        with written_whole(folder / f"{folder.name}_{name}.nii.gz") as temporary:
            temporary.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))


def is_complete(folder: Path) -> bool:
    """True if all five volumes of the patient are there."""
    return all((folder / f"{folder.name}_{name}.nii.gz").is_file() for name in (*MODALITIES, "seg"))


def _make_and_write(folder: Path, seed: int, number: int) -> str:
    write_patient(folder, make_patient(seed, number))
    return folder.name


def make_brain_release(out: Path, patients: int, seed: int, workers: int = 1) -> Iterator[str]:
    """Write patients 1..`patients` below out/MICCAI_BraTS2020_TrainingData and yield each name when it is
    complete.

    Complete patients are left as they are. name_mapping.csv, written at the end, tells what each patient has.
    """
    root = Path(out) / RELEASE_FOLDER
    missing = []
    for number in range(1, patients + 1):
        if is_complete(root / patient_name(number)):
            yield patient_name(number)
        else:
            missing.append((root / patient_name(number), seed, number))
    if workers <= 1 or len(missing) <= 1:
        for task in missing:
            yield _make_and_write(*task)
    else:
        # One thread a process, for the processes share the cores.
        limit = {"initializer": torch.set_num_threads, "initargs": (1,)}
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), **limit) as pool:
            for done in as_completed([pool.submit(_make_and_write, *task) for task in missing]):
                yield done.result()
    write_text(root / "name_mapping.csv", _name_mapping(seed, patients))


def _name_mapping(seed: int, patients: int) -> str:
    """The table of all patients; `Grade` is the phantom kind."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["Grade", "BraTS_2020_subject_ID", "foci", "centre_slice", "radius_mm", "strength"])
    for number in range(1, patients + 1):
        plan = tumour.draw_plan(seed, number)
        row = [plan.kind, patient_name(number), plan.foci, round(plan.level), f"{plan.radius:.1f}"]
        table.writerow([*row, f"{plan.strength:.2f}"])
    return text.getvalue()
