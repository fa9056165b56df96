"""A B-scan of the retina as optical coherence tomography shows it: layers, choroid, shadows, speckle.

The retina is a stack of layers on Bruch's membrane, each with a thickness per column, so that whatever
lifts one layer lifts all that lie in front of it. Lengths are pixels of the Spectralis scans in the
OCT2017 release: 3.9 um a row, 11.7 um a column. Reflectivities are display values in [0, 1]; the display
shows the fourth root of the detected intensity, so that speckle (gamma-distributed, multiplicative) and
detector noise (exponential, additive, with a fixed offset subtracted) act on the fourth power.
"""

from dataclasses import dataclass, field

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, gaussian_filter1d

COLUMN_MM = 0.0117
# From vitreous to choroid. fluid, material and deposit have no thickness in a healthy eye: subretinal fluid,
# subretinal hyperreflective material, and whatever lies between the pigment epithelium and Bruch's membrane.
LAYERS = (
    "nfl", "gcl", "ipl", "inl", "opl", "onl", "elm", "myoid", "ez", "os",
    "fluid", "material", "iz", "gap", "rpe", "deposit",
)  # fmt: skip
REFLECTIVITY = {
    "nfl": 0.66, "gcl": 0.41, "ipl": 0.45, "inl": 0.29, "opl": 0.39, "onl": 0.21, "elm": 0.34, "myoid": 0.25,
    "ez": 0.78, "os": 0.52, "fluid": 0.06, "material": 0.5, "iz": 0.68, "gap": 0.6, "rpe": 0.72,
    "deposit": 0.35,
}  # fmt: skip
NOISE_OFFSET = 0.56  # of the mean detector noise; fitted to the vitreous of real scans


@dataclass
class Patient:
    """What all scans of one eye have in common."""

    thickness: float  # of the inner retina, relative
    pit_mm: float  # radius of the foveal pit
    nasal: int  # +1: the optic disc lies to the right
    curvature: float  # rows per squared mm
    choroid: float  # depth constant, rows
    gain: float  # display gain
    noise: float  # detector noise, display value
    looks: float  # averaged frames: 1 / variance of the speckle
    reflectivity: dict[str, float]


@dataclass
class Scan:
    """One B-scan of width W and height H before speckle; lesions change it in place.

    bruch: row of Bruch's membrane, (W,). thickness, reflectivity: per layer, (W,). mm: signed distance
    of every column from the column nearest to the fovea, (W,). shadow: display gain behind the inner
    layers, (W,). lesion: mask (H, W) bool. spots: (alpha (H, W), display value) painted over the layers.
    """

    bruch: np.ndarray
    mm: np.ndarray
    thickness: dict[str, np.ndarray]
    reflectivity: dict[str, np.ndarray]
    shadow: np.ndarray
    height: int
    lesion: np.ndarray
    spots: list[tuple[np.ndarray, float]] = field(default_factory=list)

    def tops(self) -> dict[str, np.ndarray]:
        """Row of the anterior edge of every layer, (W,)."""
        above = self.bruch.copy()
        tops = {}
        for name in reversed(LAYERS):
            above = above - self.thickness[name]
            tops[name] = above
        return tops


def smooth_field(rng: np.random.Generator, shape: tuple[int, int], step: tuple[float, float]) -> np.ndarray:
    """Gaussian noise of unit variance, correlated over about `step` (rows, columns); (H, W) float32."""
    coarse = rng.standard_normal([max(2, round(n / s) + 3) for n, s in zip(shape, step, strict=True)], np.float32)
    smooth = np.asarray(Image.fromarray(coarse).resize(shape[::-1], Image.Resampling.BICUBIC))
    return smooth / max(float(smooth.std()), 1e-6)


def smooth_curve(rng: np.random.Generator, width: int, length: float) -> np.ndarray:
    """Gaussian noise of unit variance along the columns, correlated over `length` columns, (W,)."""
    margin = int(4 * length)
    curve = gaussian_filter1d(rng.standard_normal(width + 2 * margin), length)[margin : margin + width]
    return curve * np.sqrt(2 * length * np.sqrt(np.pi))


def draw_patient(rng: np.random.Generator) -> Patient:
    """The look of one eye."""
    return Patient(
        thickness=rng.normal(1.0, 0.07),
        pit_mm=rng.uniform(0.4, 0.62),
        nasal=int(rng.choice([-1, 1])),
        curvature=rng.normal(-1.5, 1.6),
        choroid=rng.uniform(34, 62),
        gain=rng.uniform(0.86, 1.16),
        noise=rng.uniform(0.135, 0.205),
        looks=rng.uniform(2.5, 6.0),
        reflectivity={name: value * rng.normal(1.0, 0.06) for name, value in REFLECTIVITY.items()},
    )


def healthy_scan(rng: np.random.Generator, patient: Patient, shape: tuple[int, int], off_fovea_mm: float) -> Scan:
    """A healthy B-scan of shape (H, W) that passes the fovea at a distance of `off_fovea_mm`."""
    height, width = shape
    fovea = width * (0.5 + rng.uniform(-0.12, 0.12))
    mm = (np.arange(width) - fovea) * COLUMN_MM
    r = np.hypot(mm, off_fovea_mm)
    inner = 1 - np.exp(-((r / patient.pit_mm) ** 2))
    nasal = 1 / (1 + np.exp(-(patient.nasal * mm - 1.6) / 0.45))
    ganglion = inner * (9 + 15 * np.exp(-(((r - 0.95) / 1.0) ** 2))) * patient.thickness
    thickness = {
        "nfl": inner * (3.5 + 10 * nasal) + 1.2,
        "gcl": 0.52 * ganglion,
        "ipl": 0.48 * ganglion + 1,
        "inl": inner * 10 * patient.thickness,
        "opl": 1.5 + 6.5 * (1 - np.exp(-((r / 0.3) ** 2))),
        "onl": 16 + 15 * np.exp(-((r / 0.5) ** 2)),
        "elm": np.full(width, 1.6),
        "myoid": 5.5 + 1.5 * np.exp(-((r / 0.4) ** 2)),
        "ez": np.full(width, 3.4),
        "os": 3.6 + 2 * np.exp(-((r / 0.4) ** 2)),
        "iz": np.full(width, 2.6),
        "gap": np.full(width, 2.0),
        "rpe": np.full(width, 5.2),
    }
    for name in ("nfl", "gcl", "ipl", "inl", "opl", "onl"):
        thickness[name] = thickness[name] * (1 + 0.06 * smooth_curve(rng, width, 30))
    for name in ("fluid", "material", "deposit"):
        thickness[name] = np.zeros(width)
    across = mm * rng.normal(0, 9) + patient.curvature * mm**2 * rng.uniform(0.6, 1.2)
    across += 1.8 * smooth_curve(rng, width, 70) + 0.25 * smooth_curve(rng, width, 5)
    across -= across.mean()
    middle = rng.uniform(0.46, 0.66) * height
    bruch = middle + across * min(1.0, 0.2 * height / np.abs(across).max())
    reflectivity = {
        name: value * (1 + 0.05 * smooth_curve(rng, width, 25)) for name, value in patient.reflectivity.items()
    }
    # The fibre layer is seen edge-on and thin in the temporal half, where it is darker.
    reflectivity["nfl"] = reflectivity["nfl"] * (0.78 + 0.27 * nasal)
    return Scan(bruch, mm, thickness, reflectivity, np.ones(width), height, np.zeros(shape, bool))


def add_vessels(rng: np.random.Generator, scan: Scan) -> None:
    """Retinal vessels: a bright spot in the inner layers and a shadow behind it; none in the fovea."""
    columns = np.arange(scan.mm.size)
    tops = scan.tops()
    for _ in range(rng.integers(1, 7)):
        centre = int(rng.integers(0, columns.size))
        if abs(scan.mm[centre]) < 0.5:
            continue
        radius = rng.uniform(1.0, 4.5)
        dip = np.exp(-((np.abs(columns - centre) / radius) ** 3)) * (1 + 0.15 * smooth_curve(rng, columns.size, 1))
        scan.shadow *= np.clip(1 - rng.uniform(0.08, 0.1 + 0.09 * radius) * dip, 0.3, 1)
        row = tops["nfl"][centre] + rng.uniform(2, 9)
        add_spot(scan, (row, centre), (radius * 0.9, radius), rng.uniform(0.42, 0.62), 0.3, rng)


def add_spot(scan: Scan, centre, radii, value: float, roughness: float, rng: np.random.Generator) -> np.ndarray:
    """Paint a rough ellipse of a display value; centre, radii in (rows, columns). Returns its mask (H, W)."""
    alpha = np.zeros((scan.height, scan.mm.size), np.float32)
    reach = [int(np.ceil(1.6 * r + 3)) for r in radii]
    low = [max(0, int(c) - n) for c, n in zip(centre, reach, strict=True)]
    high = [min(s, int(c) + n + 1) for c, n, s in zip(centre, reach, alpha.shape, strict=True)]
    if low[0] >= high[0] or low[1] >= high[1]:
        return alpha > 0.5
    y, x = np.mgrid[low[0] : high[0], low[1] : high[1]]
    y, x = (y - centre[0]) / radii[0], (x - centre[1]) / radii[1]
    angle = np.arctan2(y, x)
    edge = 1 + roughness * sum(rng.normal() / n * np.cos(n * angle + rng.uniform(0, 2 * np.pi)) for n in (2, 3, 4, 5))
    inside = (np.maximum(edge, 0.35) - np.hypot(y, x)) * min(radii)
    alpha[low[0] : high[0], low[1] : high[1]] = np.clip(inside / 1.5 + 0.5, 0, 1)
    scan.spots.append((alpha, value))
    return alpha > 0.5


def _paint_from(canvas: np.ndarray, top: np.ndarray, change: np.ndarray, softness: float) -> None:
    """Add `change` (W,) to all rows behind `top` (W,), over a ramp of `softness` rows."""
    first = int(np.clip(np.floor(top.min() - softness), 0, canvas.shape[0]))
    last = int(np.clip(np.ceil(top.max() + softness), 0, canvas.shape[0]))
    rows = np.arange(first, last, dtype=np.float32)[:, None]
    canvas[first:last] += change * np.clip((rows - top) / softness + 0.5, 0, 1)
    canvas[last:] += change


def _choroid(rng: np.random.Generator, scan: Scan, patient: Patient) -> np.ndarray:
    """Display values behind Bruch's membrane (H, W): capillaries, dark vessels in bright stroma, decay."""
    shape = (scan.height, scan.mm.size)
    depth = np.maximum(np.arange(scan.height, dtype=np.float32)[:, None] - scan.bruch.astype(np.float32), 0)
    values = 0.31 * np.exp(-depth / patient.choroid) + 0.025
    small, large = smooth_field(rng, shape, (9, 8)), smooth_field(rng, shape, (24, 20))
    deep = np.clip(depth / 40, 0, 1)
    lumen = 1 / (1 + np.exp(-2.5 * ((1 - 0.6 * deep) * small + deep * large - 0.35)))
    behind_capillaries = np.clip((depth - 4) / 8, 0, 1) * np.exp(-((depth / (2.2 * patient.choroid)) ** 4))
    values *= 1 + behind_capillaries * (0.22 - 0.5 * lumen)
    streaks = smooth_curve(rng, shape[1], 1.2) + 1.5 * smooth_curve(rng, shape[1], 9)
    return values * (1 + 0.05 * streaks * np.clip(depth / 20, 0, 1))


def _vitreous(rng: np.random.Generator, scan: Scan, ilm: np.ndarray) -> np.ndarray:
    """Display values in front of the retina (H, W): mostly nothing; sometimes haze and a detached hyaloid."""
    shape = (scan.height, scan.mm.size)
    rows = np.arange(scan.height, dtype=np.float32)[:, None]
    values = np.zeros(shape, np.float32)
    if rng.random() < 0.3:
        lift = rng.uniform(2, 30) + rng.uniform(15, 55) * np.sqrt(np.abs(scan.mm - rng.normal(0, 0.5)) + 0.15)
        line = np.minimum(gaussian_filter1d(ilm, 40) - lift, ilm - 2)
        strength = np.clip(0.2 + 0.12 * smooth_curve(rng, shape[1], 40), 0, 0.4)
        values += strength * np.exp(-(((rows - line) / 1.8) ** 2))
        values += (rows < line) * rng.uniform(0, 0.09)
    if rng.random() < 0.3:
        values += rng.uniform(0.01, 0.04) * np.clip(1 + smooth_field(rng, shape, (90, 120)), 0, None)
    return values * (rows < ilm)


def render(rng: np.random.Generator, scan: Scan, patient: Patient) -> np.ndarray:
    """Display values of the scan with speckle and noise, (H, W) float32 in [0, 1]."""
    tops = scan.tops()
    canvas = _vitreous(rng, scan, tops["nfl"])
    previous = np.zeros(scan.mm.size)
    for name in LAYERS:
        softness = 4.5 if name in ("gcl", "ipl", "inl", "opl", "onl") else 2.0
        _paint_from(canvas, tops[name], scan.reflectivity[name] - previous, softness)
        previous = scan.reflectivity[name]
    _paint_from(canvas, scan.bruch, -previous, 2.0)
    rows = np.arange(scan.height, dtype=np.float32)[:, None]
    canvas += _choroid(rng, scan, patient) * np.clip((rows - scan.bruch.astype(np.float32)) / 2 + 0.5, 0, 1)
    canvas *= 1 + 0.055 * smooth_field(rng, canvas.shape, (2, 4)) + 0.03 * smooth_field(rng, canvas.shape, (30, 40))
    for alpha, value in scan.spots:
        canvas += alpha * (value - canvas)
    behind = np.clip((rows - tops["ipl"].astype(np.float32)) / 8, 0, 1)
    canvas *= 1 - behind * (1 - scan.shadow.astype(np.float32))
    brightness = patient.gain * (1 + 0.05 * smooth_curve(rng, scan.mm.size, 60))
    return detect(rng, canvas * brightness.astype(np.float32), patient.noise, patient.looks, scan.mm.size < 600)


def detect(rng: np.random.Generator, display: np.ndarray, noise: float, looks: float, narrow: bool) -> np.ndarray:
    """What the instrument shows of display values (H, W): speckle, detector noise, fourth root; in [0, 1].

    noise: display value of the mean detector noise at the top of the scan; it falls off towards the bottom.
    looks: shape of the speckle's gamma distribution, whose mean is 1. narrow: a scan of 20 degrees, not 30.
    """
    height = display.shape[0]
    speckle = rng.standard_gamma(looks, display.shape, np.float32) / np.float32(looks)
    speckle = gaussian_filter(speckle, (0.55, 0.45), truncate=3)
    fall_off = np.linspace(1, 0.6, height, dtype=np.float32)[:, None]
    detector = (noise * fall_off) ** 4 * (rng.standard_exponential(display.shape, np.float32) - NOISE_OFFSET)
    intensity = np.clip(display, 0, None) ** 4 * speckle + detector
    shown = np.sqrt(np.sqrt(np.clip(intensity, 0, None)))
    # The instrument interpolates when it registers and averages frames, and more in narrow, dense scans.
    return np.clip(gaussian_filter(shown, (0.68, 0.58) if narrow else (0.56, 0.44), truncate=3), 0, 1)
