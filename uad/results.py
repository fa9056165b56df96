"""The folder that an inference run leaves: what is saved per image, and how it is read back.

DIR/run.json                    what was run, on what, with which settings; `save`: what is kept, one of KEPT
DIR/input/NAME.nii.gz           normalised input, (C, H, W)
DIR/reconstruction/NAME.nii.gz  (C, H, W)
DIR/anomaly_map/NAME.nii.gz     (H, W), non-negative, one scale for the whole data set
DIR/label/NAME.nii.gz           (H, W) of 0/1, where the image has a mask
DIR/EXTRA/NAME.nii.gz           anything else that the method gives, also on a coarser grid
DIR/records/NAME.json           name, patient, has_label, extras and numbers; written last

Where only maps are kept there is no input, and of the extras there are those on coarser grids than the map. Such a
folder is scored by its maps: what is made from inputs (the raw intensity, PSNR and SSIM, other scores) is left out.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from uad.configuration import BEFORE
from uad.data.reading.decoding import decode
from uad.data.reading.formats import slice_bytes
from uad.errors import InputError, Problem, input_error
from uad.files import json_text, read_json, remove_leftovers, write_json, write_together

FORMAT = 1
ALL, MAPS = KEPT = ("all", "maps")
# Where an image's record says whether it is diseased, 1 or 0, if its place in a release does.
DISEASED_KEY = "diseased"
# Where run.json says which file the values of flags came from, which stand there themselves.
SETTINGS_KEY = "settings_from"
# Keys of run.json, at any depth, that may differ when a run is continued: none of them changes a result.
VOLATILE_KEYS = frozenset(
    {
        "versions",
        "time",
        "commit",
        "command",
        "device",
        "world_size",
        "batch_size",
        "num_workers",
        "local_rank",
        "channel_names",
        "display_channel",
        "parameters",
        SETTINGS_KEY,
    }
)
# What run.json of earlier versions does not say.
FORMER = {"save": ALL, **BEFORE}
# A slice is written within a second: a temporary file that is older than this was left by a process that died.
LEFTOVER_SECONDS = 3600.0
REQUIRED_RUN_KEYS = ("format", "method", "dataset", "n_channels", "img_size", "normalise", "seed")


def coarse_affine(affine: np.ndarray, factor: float | Sequence[float]) -> np.ndarray:
    """Affine of a grid whose cells each cover `factor` x `factor` voxels of the grid of `affine`.

    affine: (4, 4), voxel index to millimetres; factor: one number, or one per array axis (H, W).
    The centre of the first coarse cell is the centre of the block that it covers, at index (factor - 1) / 2.
    """
    factors = np.ones(3)
    factors[:2] = factor
    scaled = np.array(affine, dtype=np.float64)
    scaled[:3, 3] += scaled[:3, :3] @ ((factors - 1) / 2)
    scaled[:3, :3] *= factors
    return scaled


@dataclass(frozen=True)
class ImageResult:
    """What there is to save of one image.

    affine: (4, 4); image, reconstruction: (C, H, W) float; anomaly_map: (H, W), finite and non-negative; label: (H, W)
    of 0/1; extras: name -> (H', W') or (C', H', W') on a grid that covers the same field (H' <= H); record: further
    finite numbers. Raises ValueError where a shape or a value is not so, or a name would lead out of the folder.
    """

    name: str
    patient: str
    affine: np.ndarray
    image: np.ndarray
    reconstruction: np.ndarray
    anomaly_map: np.ndarray
    label: np.ndarray | None = None
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)
    record: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self):
        """Check names, shapes and values."""
        for word in (self.name, *self.extras):
            if not word or Path(word).name != word or word.startswith("."):
                raise ValueError(f"{word!r} is no plain file name")
        expected = {"reconstruction": self.image.shape, "anomaly_map": self.image.shape[1:]}
        if self.label is not None:
            expected["label"] = self.image.shape[1:]
        for kind, shape in expected.items():
            if getattr(self, kind).shape != shape:
                raise ValueError(f"{self.name}: {kind} has shape {getattr(self, kind).shape}, expected {shape}")
        if not np.isfinite(self.anomaly_map).all() or self.anomaly_map.min() < 0:
            raise ValueError(f"{self.name}: anomaly_map must be finite and non-negative")

    def kept(self, what: str) -> dict[str, np.ndarray]:
        """The arrays to save but for the label, by kind; what: one of KEPT."""
        coarse = {kind: array for kind, array in self.extras.items() if array.shape[-1] < self.anomaly_map.shape[-1]}
        arrays = {"reconstruction": self.reconstruction, "anomaly_map": self.anomaly_map}
        return arrays | (coarse if what == MAPS else {"input": self.image, **self.extras})


class ResultWriter:
    """Saves results; several processes may write different images into one folder."""

    def __init__(self, folder: Path | str, run_info: Mapping):
        """Create the folder and its run.json, or continue a folder whose run.json agrees.

        Raises InputError that lists every differing key when the folder holds the results of another run. Temporary
        files of processes that died are removed.
        """
        self.folder = Path(folder)
        run = json.loads(json.dumps({"format": FORMAT, "save": ALL, **run_info}))
        missing = [key for key in REQUIRED_RUN_KEYS if key not in run]
        if missing:
            raise ValueError(f"run_info lacks {', '.join(missing)}")
        self._kept = run["save"]
        path = self.folder / "run.json"
        if path.exists():
            check_same_run(path, read_json(path), run)
            for kind in filter(Path.is_dir, self.folder.iterdir()):
                remove_leftovers(kind, LEFTOVER_SECONDS)
        else:
            write_json(path, run)

    def is_done(self, name: str) -> bool:
        """Whether image `name` is saved completely."""
        return self._record_path(name).exists()

    def save_all(self, images: Sequence[ImageResult], spread: Callable = map) -> None:
        """Save images together; their records come last and mark them complete.

        spread: a map, or that of a pool of threads, see uad.files.write_together. InputError where the disk is full or
        read-only.
        """
        arrays, records = {}, {}
        for image in images:
            for kind, array in image.kept(self._kept).items():
                stored = array if array.dtype == np.uint8 else np.asarray(array, dtype=np.float32)
                affine = coarse_affine(image.affine, np.array(image.anomaly_map.shape) / np.array(array.shape[-2:]))
                arrays[self._path(kind, image.name)] = partial(slice_bytes, stored, affine)
            if image.label is not None:
                label = np.asarray(image.label, dtype=np.uint8)
                arrays[self._path("label", image.name)] = partial(slice_bytes, label, image.affine)
            records[self._record_path(image.name)] = json_text(self._record(image)).encode
        write_together((arrays, records), spread)

    def _record(self, image: ImageResult) -> dict:
        extras = sorted(image.kept(self._kept).keys() & image.extras.keys())
        head = {
            "name": image.name,
            "patient": image.patient,
            "has_label": image.label is not None,
            "extras": extras,
        }
        return head | {key: float(value) for key, value in image.record.items()}

    def _record_path(self, name: str) -> Path:
        return self.folder / "records" / f"{name}.json"

    def _path(self, kind: str, name: str) -> Path:
        return self.folder / kind / f"{name}.nii.gz"


class Result(NamedTuple):
    """One image of a result folder; shapes as in the module's head, float32, label uint8 or None.

    Of a map that other software made, and where only maps were kept, there is neither image nor reconstruction.
    """

    name: str
    patient: str
    affine: np.ndarray
    image: np.ndarray | None
    reconstruction: np.ndarray | None
    anomaly_map: np.ndarray
    label: np.ndarray | None
    extras: dict[str, np.ndarray]
    record: dict


class ResultFolder:
    """Reads a result folder.

    .run: contents of run.json; .names: complete images, sorted; .incomplete: images that were begun but
    have no record; .has_inputs: whether images and reconstructions can be loaded; .has_neighbours: whether maps may be
    averaged across the slices of a scan.
    Raises InputError when the folder is missing, is no result folder, or holds no complete image.
    """

    has_neighbours = True

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        run_path = self.folder / "run.json"
        remedy = "give a folder that scripts/latent_sample_anomaly.py has written"
        if not run_path.is_file():
            found = "no run.json" if self.folder.is_dir() else "no such folder"
            raise input_error(self.folder, found, "a result folder with run.json", remedy)
        self.run = FORMER | read_json(run_path)
        missing = [key for key in REQUIRED_RUN_KEYS if key not in self.run]
        if missing:
            raise input_error(run_path, f"no {', '.join(missing)}", "a run.json with these keys", remedy)
        if self.run["format"] != FORMAT:
            raise input_error(run_path, f"format {self.run['format']}", f"format {FORMAT}", "run the inference again")
        self.has_inputs = self.run["save"] == ALL
        self.names = sorted(path.stem for path in (self.folder / "records").glob("*.json") if path.name[0] != ".")
        begun = {path.name.removesuffix(".nii.gz") for path in (self.folder / "anomaly_map").glob("[!.]*.nii.gz")}
        self.incomplete = sorted(begun - set(self.names))
        if not self.names:
            raise input_error(
                self.folder,
                f"no complete image ({len(self.incomplete)} begun)",
                "at least one file in records/",
                "run the inference again: it continues where it stopped",
            )

    def record(self, name: str) -> dict:
        """The record of one image: name, patient, has_label, extras and the numbers saved with it."""
        path = self.folder / "records" / f"{name}.json"
        record = read_json(path)
        types = {"name": str, "patient": str, "has_label": bool, "extras": list}
        wrong = [key for key, kind in types.items() if not isinstance(record.get(key), kind)]
        if wrong:
            found = f"no valid {', '.join(wrong)}"
            raise input_error(path, found, "a whole record", "delete it and run the inference again")
        return record

    def load(self, name: str, extras: Sequence[str] = ()) -> Result:
        """Read one image and the named extras. Raises InputError with the file that is missing, damaged or
        misshapen.
        """
        record = self.record(name)
        anomaly_map, affine = self._read("anomaly_map", name)
        images = dict.fromkeys(("input", "reconstruction"))
        if self.has_inputs:
            images = {kind: self._channels(kind, name) for kind in images}
        label = self._read("label", name)[0].astype(np.uint8) if record["has_label"] else None
        whole = (self.run["n_channels"], *(anomaly_map if images["input"] is None else images["input"]).shape[-2:])
        for kind, array, expected in (
            *((kind, array, whole) for kind, array in images.items()),
            ("anomaly_map", anomaly_map, whole[1:]),
            ("label", label, whole[1:]),
        ):
            if array is not None and array.shape != expected:
                raise self._damaged(kind, name, f"shape {array.shape}", f"shape {expected}")
        if anomaly_map.min() < 0:
            raise self._damaged("anomaly_map", name, f"minimum {anomaly_map.min():.4g}", "values >= 0")
        further = {}
        for extra in extras:
            if extra not in record["extras"]:
                raise self._damaged(extra, name, "not stored for this image", f"{extra} for every image")
            further[extra] = self._read(extra, name)[0]
        return Result(name, record["patient"], affine, *images.values(), anomaly_map, label, further, record)

    def map_path(self, name: str) -> Path:
        """Where the anomaly map of an image lies."""
        return self._path("anomaly_map", name)

    def _channels(self, kind: str, name: str) -> np.ndarray:
        """An array as (C, H, W); one channel is stored without its axis."""
        array = self._read(kind, name)[0]
        return array.reshape(-1, *array.shape[-2:])

    def _path(self, kind: str, name: str) -> Path:
        return self.folder / kind / f"{name}.nii.gz"

    def _read(self, kind: str, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(array, affine); the array is (H, W), or (C, H, W) from (H, W, 1, C) on disk."""
        path = self._path(kind, name)
        if not path.is_file():
            raise self._damaged(kind, name, "missing", "a NIfTI file")
        try:
            decoded = decode(path)
        except InputError as error:
            raise self._damaged(kind, name, f"unreadable ({error.problems[0].found})", "a NIfTI file") from None
        array = decoded.values.astype(np.float32)
        if array.ndim == 4 and array.shape[2] == 1:
            array = np.moveaxis(array[:, :, 0], -1, 0)
        elif array.ndim != 2:
            raise self._damaged(kind, name, f"shape {array.shape}", "(H, W) or (H, W, 1, C)")
        if not np.isfinite(array).all():
            raise self._damaged(kind, name, "NaN or infinite values", "finite values")
        return array, decoded.affine

    def _damaged(self, kind: str, name: str, found: str, expected: str) -> InputError:
        remedy = f"delete {self.folder / 'records' / (name + '.json')} and run the inference again: it fills the gap"
        return input_error(self._path(kind, name), found, expected, remedy)


def newest_result_folder(root: Path | str) -> Path:
    """The folder at any depth below `root` (or `root` itself) whose run.json is the youngest; InputError if
    none.
    """
    runs = [path for path in Path(root).rglob("run.json") if path.is_file()]
    if not runs:
        found = "no run.json in it" if Path(root).is_dir() else "no such folder"
        remedy = "run scripts/latent_sample_anomaly.py first, or name a result folder with --results"
        raise input_error(root, found, "a result folder below it", remedy)
    return max(runs, key=lambda path: (path.stat().st_mtime_ns, str(path))).parent


def check_same_run(path: Path, old: dict, new: dict) -> None:
    """Raises InputError that names every key in which the file of a run that is continued differs from what would be
    written now, but for the volatile ones.
    """
    before, now = (flattened(FORMER | run, VOLATILE_KEYS) for run in (old, new))
    problems = [
        Problem(
            f"{path}, {key}",
            repr(before.get(key)),
            repr(now.get(key)),
            "choose another output folder, or the settings that this folder was begun with",
        )
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if problems:
        raise InputError(problems)


def flattened(run: Mapping, without: frozenset[str], prefix: str = "") -> dict:
    """Nested dictionaries as one, with dotted keys, and without the keys `without` at any depth."""
    flat = {}
    for key, item in run.items():
        if key in without:
            continue
        if isinstance(item, dict):
            flat.update(flattened(item, without, f"{prefix}{key}."))
        else:
            flat[prefix + key] = item
    return flat
