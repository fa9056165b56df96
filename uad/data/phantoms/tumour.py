"""Tumours of the brain phantoms: what kind a patient has, where it grows, and how it pushes tissue aside.

Label values are those of BraTS: 1 necrotic or non-enhancing core, 2 oedema, 4 enhancing tumour.
"""

from typing import NamedTuple

import numpy as np

from uad.data.phantoms.fields import BOX, BOX_START, coarse_grid, smooth_noise

NECROTIC, OEDEMA, ENHANCING = 1, 2, 4

# Height of a mass as a share of its width.
FLATTENING = 0.6

# Every eight patients hold each entry once, so that a small set has the whole range.
KINDS = (
    "ring_enhancing",
    "ring_enhancing",
    "enhancing_small",
    "diffuse",
    "diffuse",
    "faint",
    "faint",
    "isointense",
)


class Focus(NamedTuple):
    """One tumour mass: centre in volume voxels (3,), radius of the whole lesion in mm, core radius as a
    share of it.
    """

    centre: np.ndarray
    radius: float
    core: float


class TumourPlan(NamedTuple):
    """What is decided about a patient's tumour before the head is made.

    kind: entry of KINDS; level: axial slice of the main focus; radius: mm; foci: number of masses; core:
    core radius as a share of `radius`, 0 for none; push: greatest displacement of tissue as a share of the
    radius; strength: 0..1, how far tissue takes on the lesion's intensity.
    """

    kind: str
    level: float
    radius: float
    foci: int
    core: float
    push: float
    strength: float


class Lesion(NamedTuple):
    """Tumour fractions per voxel of the box, each (BOX) float32 in 0..1, and the labels (BOX) uint8."""

    oedema: np.ndarray
    enhancing: np.ndarray
    necrotic: np.ndarray
    labels: np.ndarray


def draw_plan(seed: int, patient: int) -> TumourPlan:
    """The plan of one patient (numbered from 1), a function of (seed, patient) only."""
    block, place = divmod(patient - 1, len(KINDS))
    kind = KINDS[np.random.default_rng((seed, block, 1)).permutation(len(KINDS))[place]]
    rng = np.random.default_rng((seed, patient, 2))
    small = kind == "enhancing_small"
    radius = rng.uniform(11, 16) if small else rng.uniform(17, 31)
    # Centres lie below, within and above the slices that the preparation keeps, so that healthy slices remain
    # at every level.
    level = rng.choice([rng.uniform(60, 82), rng.uniform(84, 122), rng.uniform(122, 136)], p=[0.45, 0.3, 0.25])
    foci = 1 if small or rng.random() < 0.75 else int(rng.integers(2, 4))
    core = {"ring_enhancing": rng.uniform(0.45, 0.7), "enhancing_small": rng.uniform(0.45, 0.6)}.get(kind, 0.0)
    strength = {"faint": rng.uniform(0.4, 0.6), "isointense": rng.uniform(0.6, 0.8)}.get(kind, rng.uniform(0.7, 0.95))
    push = rng.uniform(0.25, 0.45) if kind == "isointense" else rng.uniform(0.1, 0.4)
    return TumourPlan(kind, float(level), float(radius), foci, float(core), float(push), float(strength))


def place_foci(plan: TumourPlan, white: np.ndarray, depth: np.ndarray, rng: np.random.Generator) -> list[Focus]:
    """Choose the centres among the coarse nodes inside the cerebrum, white matter first.

    white, depth: (x, y, z) on the coarse grid: white-matter fraction, mm below the surface. Satellites are
    smaller and lie up to three radii away.
    """
    nodes = coarse_grid().reshape(3, -1).T
    inside = depth.reshape(-1) > 7
    weight = (white.reshape(-1) + 0.15) * inside
    foci: list[Focus] = []
    for number in range(plan.foci):
        near = np.exp(-0.5 * ((nodes[:, 2] - plan.level) / 2.0) ** 2)
        radius = plan.radius
        if number:
            distance = np.linalg.norm(nodes - foci[0].centre, axis=1)
            near = np.exp(-0.5 * ((distance - 1.8 * plan.radius) / 6.0) ** 2)
            radius = plan.radius * rng.uniform(0.3, 0.55)
        chance = weight * near
        centre = nodes[rng.choice(len(nodes), p=chance / chance.sum())]
        foci.append(Focus(centre + rng.uniform(-1.5, 1.5, 3), radius, plan.core))
    return foci


def push_aside(points: np.ndarray, foci: list[Focus], plan: TumourPlan, depth: np.ndarray) -> np.ndarray:
    """Mass effect: each coarse node looks at tissue nearer to the tumour, u exp((1 - u^2) / 2) with u = r /
    radius.

    points: (3, x, y, z) MNI mm seen at the nodes; depth: (x, y, z) mm below the surface, where the shift
    fades so that the skull keeps its form. The map stays one to one, as its greatest stretch is 1.65 times
    `plan.push` < 1.
    """
    nodes = coarse_grid()
    shifted = points.copy()
    spacing = [np.gradient(points, axis=axis) / np.gradient(nodes[axis - 1], axis=axis - 1) for axis in (1, 2, 3)]
    fade = np.clip(depth / 14, 0, 1)
    for focus in foci:
        offset = nodes - focus.centre[:, None, None, None]
        scaled = np.sqrt((offset**2).sum(0)) / focus.radius
        amount = plan.push * np.exp((1 - scaled**2) / 2) * fade
        for axis in range(3):
            shifted -= spacing[axis] * (amount * offset[axis])
    return shifted.astype(np.float32)


def grow(
    plan: TumourPlan, foci: list[Focus], tissue: np.ndarray, brain: np.ndarray, rng: np.random.Generator
) -> Lesion:
    """Form the lesion of all foci: an irregular ellipsoid that prefers white matter and spares CSF.

    tissue: (3, BOX) grey, white, CSF fractions; brain: (BOX) bool. Oedema follows the white matter, the
    core is a more compact body with an enhancing shell of uneven thickness around necrosis.
    """
    oedema, enhancing, necrotic = (np.zeros(BOX, np.float32) for _ in range(3))
    for focus in foci:
        low = np.floor(focus.centre - BOX_START - 1.7 * focus.radius).astype(int)
        high = np.ceil(focus.centre - BOX_START + 1.7 * focus.radius).astype(int) + 1
        low, high = np.clip(low, 0, BOX), np.clip(high, 0, BOX)
        part = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        whole, shell, inner = _focus_fractions(focus, low, high, tissue[(slice(None), *part)], rng)
        oedema[part] = np.maximum(oedema[part], whole)
        enhancing[part] = np.maximum(enhancing[part], shell)
        necrotic[part] = np.maximum(necrotic[part], inner)
    for fraction in (oedema, enhancing, necrotic):
        fraction *= brain
    labels = np.where(oedema > 0.5, OEDEMA, 0).astype(np.uint8)
    labels[necrotic > 0.5] = NECROTIC
    labels[enhancing > 0.5] = ENHANCING
    return Lesion(oedema, enhancing, necrotic, labels)


def _focus_fractions(focus: Focus, low, high, tissue: np.ndarray, rng: np.random.Generator):
    """Whole-lesion, shell and inner fractions of one focus in the box part low..high, each (x, y, z) in
    0..1.
    """
    shape = tuple(int(b - a) for a, b in zip(low, high, strict=True))
    axes = [
        np.arange(a, b, dtype=np.float32) + start - c
        for a, b, start, c in zip(low, high, BOX_START, focus.centre, strict=True)
    ]
    offset = np.stack(np.meshgrid(*axes, indexing="ij"))
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0].astype(np.float32)
    stretch = np.exp(rng.normal(0, 0.15, 3)).astype(np.float32)
    # Along the head's axis the mass is shorter, which leaves more slices of the patient free of it.
    ellipsoid = (turn.T * (1 / stretch)) @ turn @ np.diag([1, 1, 1 / FLATTENING]).astype(np.float32)
    distance = np.sqrt((np.tensordot(ellipsoid, offset, 1) ** 2).sum(0)) / focus.radius
    lobes = smooth_noise(rng, 0.9 * focus.radius, shape) + 0.45 * smooth_noise(rng, 5.0, shape)
    reach = distance + 0.2 * lobes + 0.18 * tissue[0] + 0.55 * tissue[2]
    whole = _step((1.08 - reach) / 0.05)
    if focus.core == 0:
        return whole, np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    wall = smooth_noise(rng, 7.0, shape)
    body = distance / focus.core + 0.22 * lobes + 0.10 * wall + 0.3 * tissue[2]
    core = _step((1.0 - body) / 0.08)
    inner = _step((0.74 + 0.1 * wall - body) / 0.08)
    return np.maximum(whole, core), core - np.minimum(core, inner), inner


def _step(x: np.ndarray) -> np.ndarray:
    """Logistic function, float32; arguments beyond 30 are saturated."""
    return 1 / (1 + np.exp(-np.clip(x, -30, 30)))
