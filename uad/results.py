"""The folder that an inference run leaves: what is saved per image, and how it is read back.

DIR/run.json                    what was run, on what, with which settings
DIR/input/NAME.nii.gz           normalised input, (C, H, W)
DIR/reconstruction/NAME.nii.gz  (C, H, W)
DIR/anomaly_map/NAME.nii.gz     (H, W), non-negative, one scale for the whole data set
DIR/label/NAME.nii.gz           (H, W) of 0/1, where the image has a mask
DIR/EXTRA/NAME.nii.gz           anything else that the method gives, also on a coarser grid
DIR/records/NAME.json           name, patient, has_label, extras and numbers; written last
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from uad.data.reading.decoding import decode
from uad.data.reading.formats import write_slice
from uad.errors import InputError, Problem, input_error
from uad.files import read_json, remove_leftovers, write_json

FORMAT = 1
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
        "parameters",
    }
)
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


class ResultWriter:
    """Saves results image by image; several processes may write different images into one folder."""

    def __init__(self, folder: Path | str, run_info: Mapping, volatile: frozenset[str] = VOLATILE_KEYS):
        """Create the folder and its run.json, or continue a folder whose run.json agrees.

        Raises InputError that lists every differing key when the folder holds the results of another run. Temporary
        files of processes that died are removed.
        """
        self.folder = Path(folder)
        run = json.loads(json.dumps({"format": FORMAT, **run_info}))
        missing = [key for key in REQUIRED_RUN_KEYS if key not in run]
        if missing:
            raise ValueError(f"run_info lacks {', '.join(missing)}")
        path = self.folder / "run.json"
        if path.exists():
            _check_same_run(path, read_json(path), run, volatile)
            for kind in filter(Path.is_dir, self.folder.iterdir()):
                remove_leftovers(kind, LEFTOVER_SECONDS)
        else:
            write_json(path, run)

    def is_done(self, name: str) -> bool:
        """Whether image `name` is saved completely."""
        return (self.folder / "records" / f"{name}.json").exists()

    def save(
        self,
        name: str,
        patient: str,
        affine: np.ndarray,
        image: np.ndarray,
        reconstruction: np.ndarray,
        anomaly_map: np.ndarray,
        label: np.ndarray | None = None,
        extras: Mapping[str, np.ndarray] | None = None,
        record: Mapping[str, float] | None = None,
    ) -> None:
        """Save one image; its record is written last and marks it complete.

        image, reconstruction: (C, H, W) float; anomaly_map: (H, W), finite and non-negative; label: (H, W)
        of 0/1;
        extras: name -> (H', W') or (C', H', W') on a grid that covers the same field (H' <= H);
        record: further finite numbers of this image. Raises ValueError where a shape or a value is not so, or a name
        would lead out of the folder; InputError where the disk is full or read-only.
        """
        extras, record = dict(extras or {}), dict(record or {})
        for word in (name, *extras):
            if not word or Path(word).name != word or word.startswith("."):
                raise ValueError(f"{word!r} is no plain file name")
        _check_arrays(name, image, reconstruction, anomaly_map, label)
        size = np.array(anomaly_map.shape)
        arrays = {"input": image, "reconstruction": reconstruction, "anomaly_map": anomaly_map, **extras}
        for kind, array in arrays.items():
            factor = size / np.array(array.shape[-2:])
            stored = array if array.dtype == np.uint8 else np.asarray(array, dtype=np.float32)
            write_slice(self._path(kind, name), stored, coarse_affine(affine, factor))
        if label is not None:
            write_slice(self._path("label", name), np.asarray(label, dtype=np.uint8), affine)
        head = {
            "name": name,
            "patient": patient,
            "has_label": label is not None,
            "extras": sorted(extras),
        }
        numbers = {key: float(value) for key, value in record.items()}
        write_json(self.folder / "records" / f"{name}.json", {**head, **numbers})

    def _path(self, kind: str, name: str) -> Path:
        return self.folder / kind / f"{name}.nii.gz"


class Result(NamedTuple):
    """One image of a result folder; shapes as in the module's head, float32, label uint8 or None.

    Of a map that other software made there is neither image nor reconstruction.
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
    have no record.
    Raises InputError when the folder is missing, is no result folder, or holds no complete image.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        run_path = self.folder / "run.json"
        remedy = "give a folder that scripts/latent_sample_anomaly.py has written"
        if not run_path.is_file():
            found = "no run.json" if self.folder.is_dir() else "no such folder"
            raise input_error(self.folder, found, "a result folder with run.json", remedy)
        self.run = read_json(run_path)
        missing = [key for key in REQUIRED_RUN_KEYS if key not in self.run]
        if missing:
            raise input_error(run_path, f"no {', '.join(missing)}", "a run.json with these keys", remedy)
        if self.run["format"] != FORMAT:
            raise input_error(run_path, f"format {self.run['format']}", f"format {FORMAT}", "run the inference again")
        self.names = sorted(path.stem for path in (self.folder / "records").glob("*.json") if path.name[0] != ".")
        begun = {path.name.removesuffix(".nii.gz") for path in (self.folder / "input").glob("[!.]*.nii.gz")}
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
        n_channels = self.run["n_channels"]
        image, affine = self._read("input", name)
        image = image.reshape(-1, *image.shape[-2:])
        shape = (n_channels, *image.shape[-2:])
        reconstruction = self._read("reconstruction", name)[0].reshape(-1, *image.shape[-2:])
        anomaly_map = self._read("anomaly_map", name)[0]
        label = self._read("label", name)[0].astype(np.uint8) if record["has_label"] else None
        for kind, found, expected in (
            ("input", image.shape, shape),
            ("reconstruction", reconstruction.shape, shape),
            ("anomaly_map", anomaly_map.shape, shape[1:]),
            ("label", None if label is None else label.shape, None if label is None else shape[1:]),
        ):
            if found != expected:
                raise self._damaged(kind, name, f"shape {found}", f"shape {expected}")
        if anomaly_map.min() < 0:
            raise self._damaged("anomaly_map", name, f"minimum {anomaly_map.min():.4g}", "values >= 0")
        further = {}
        for extra in extras:
            if extra not in record["extras"]:
                raise self._damaged(extra, name, "not stored for this image", f"{extra} for every image")
            further[extra] = self._read(extra, name)[0]
        return Result(name, record["patient"], affine, image, reconstruction, anomaly_map, label, further, record)

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


def _check_arrays(name: str, image, reconstruction, anomaly_map, label) -> None:
    expected = {
        "reconstruction": (reconstruction, image.shape),
        "anomaly_map": (anomaly_map, image.shape[1:]),
    }
    if label is not None:
        expected["label"] = (label, image.shape[1:])
    for kind, (array, shape) in expected.items():
        if array.shape != shape:
            raise ValueError(f"{name}: {kind} has shape {array.shape}, expected {shape}")
    if not np.isfinite(anomaly_map).all() or anomaly_map.min() < 0:
        raise ValueError(f"{name}: anomaly_map must be finite and non-negative")


def _check_same_run(path: Path, old: dict, new: dict, volatile: frozenset[str]) -> None:
    before, now = flattened(old, volatile), flattened(new, volatile)
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
