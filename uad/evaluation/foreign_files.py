"""A map and its label from files that any software wrote, brought onto one grid by what their headers state.

Voxels are paired by where they lie in the patient. Only where a file states no place (NPY, PNG, TIFF) are they paired
by index, which needs equal shapes.
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from uad.data.reading.decoding import NIFTI_EXTENSIONS, PLANE_AFFINE, decode, load_nifti_header
from uad.data.reading.formats import read_mask
from uad.data.reading.geometry import Grid, affine_fault, by, canonical_grid, from_canonical, same_grid, to_canonical
from uad.data.reading.labels import binary_label
from uad.data.reading.volumes import ITK_EXTENSIONS, read_volume
from uad.errors import InputError, ValueProblem, input_error
from uad.evaluation.pairing import Pair

_GRID_REMEDY = (
    "write the map with the affine of its image (nibabel: nib.Nifti1Image(map, nib.load(image).affine)), or resample "
    "one of the two to the other's grid"
)
_FINITE_REMEDY = "write the lowest score where nothing was scored, or make the map again"


class Placed(NamedTuple):
    """A file in its own layout.

    values: (X, Y, Z), of a slice (H, W, 1); affine: (4, 4), index to millimetres in RAS+, or None where the file states
    no place; notices: what is doubtful about its header.
    """

    values: np.ndarray
    affine: np.ndarray | None
    notices: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.affine is None:
            shape = self.values.shape
            return f"{by(shape[:2] if shape[2] == 1 else shape)} values, without a place in the patient"
        return "; ".join([str(Grid(self.values.shape, self.affine)), *self.notices])


class Planes(NamedTuple):
    """A map and its label as planes.

    maps: (Z, H, W) float32, finite; labels: (Z, H, W) uint8, 1 = lesion, or None without a label file; affine: (4, 4)
    of (h, w, z); by_index: whether map and label were paired by index, because one of them states no place.
    A volume is turned to the orientation of uad.data.reading.geometry, so that its planes are axial; one that states no
    place is taken as it is stored, with slices along its third axis.
    """

    maps: np.ndarray
    labels: np.ndarray | None
    affine: np.ndarray
    by_index: bool


def read_planes(pair: Pair) -> Planes:
    """Read a map and its label.

    Raises InputError with all that is wrong with the two: damaged files, several channels, NaN, a label that is none,
    different grids.
    """
    problems, read = [], {}
    for what, path, reader in (("map", pair.map, _read_map), ("label", pair.label, _read_label)):
        try:
            read[what] = reader(path) if path else None
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    anomaly_map, label = read["map"], read["label"]
    values = {"map": anomaly_map.values} | ({"label": _on_grid_of(pair, anomaly_map, label)} if label else {})
    stated = [each.affine for each in (anomaly_map, label) if each and each.affine is not None]
    affine = stated[0] if stated else PLANE_AFFINE
    if stated and anomaly_map.values.shape[2] > 1:
        turned = {what: to_canonical(volume, affine) for what, volume in values.items()}
        values, affine = {what: volume for what, (volume, _) in turned.items()}, turned["map"][1]
    planes = {what: np.ascontiguousarray(np.moveaxis(volume, 2, 0)) for what, volume in values.items()}
    by_index = label is not None and len(stated) < 2
    return Planes(planes["map"], planes.get("label"), affine, by_index)


def _on_grid_of(pair: Pair, anomaly_map: Placed, label: Placed) -> np.ndarray:
    """The label's values in the layout of the map; InputError where they do not lie on one grid."""
    if anomaly_map.affine is None or label.affine is None:
        fits, turned = anomaly_map.values.shape == label.values.shape, label.values
    else:
        grids = [canonical_grid(Grid(each.values.shape, each.affine)) for each in (anomaly_map, label)]
        fits = same_grid(*grids)
        turned = from_canonical(to_canonical(label.values, label.affine)[0], anomaly_map.affine) if fits else None
    if not fits:
        raise input_error(pair.map, str(anomaly_map), f"the grid of its label {pair.label}: {label}", _GRID_REMEDY)
    return turned


def _read_map(path: Path) -> Placed:
    """A map as float32; InputError for several channels, NaN and infinity."""
    placed = _read(path)
    values = placed.values
    if values.ndim == 4:
        if (values != values[..., :1]).any():  # else grey, saved as a picture in colours
            found = f"{values.shape[3]} channels that differ"
            remedy = "save the scores themselves as one channel; a picture in colours has lost them"
            raise input_error(path, found, "one score per voxel", remedy)
        values = values[..., 0]
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite
        values = values.astype(np.float32)
    faulty = values.size - np.count_nonzero(np.isfinite(values))
    if faulty:
        raise input_error(path, f"NaN or infinity in {faulty} voxels", "finite scores", _FINITE_REMEDY)
    return placed._replace(values=values)


def _read_label(path: Path) -> Placed:
    """A label as uint8, 1 = lesion; InputError for what is none."""
    placed = _read(path)
    if placed.values.shape[2] == 1:
        return placed._replace(values=read_mask(path)[:, :, None])
    if placed.values.ndim == 4:
        found = f"{placed.values.shape[3]} channels"
        raise input_error(path, found, "one label per voxel", "save the union of the channels as one label")
    try:
        return placed._replace(values=binary_label(placed.values))
    except ValueProblem as error:
        raise error.at(path) from error


def _read(path: Path) -> Placed:
    """A file as (X, Y, Z) or (X, Y, Z, C), a slice as (H, W, 1) or (H, W, 1, C), numbers of any type."""
    nifti = path.name.lower().endswith(NIFTI_EXTENSIONS)
    if path.name.lower().endswith(ITK_EXTENSIONS) or (nifti and not _is_slice(path)):
        return Placed(*read_volume(path))
    decoded = decode(path)
    values = decoded.values
    if decoded.colour and values.ndim == 3:
        return Placed(values[:, :, None], None)
    if not nifti:
        values = values.squeeze()  # (1, H, W) is a slice
    if values.ndim not in (2, 3, 4):
        remedy = "save one slice (H, W) or one volume (X, Y, Z) per file"
        raise input_error(path, f"an array of shape {decoded.values.shape}", "two or three axes", remedy)
    fault = affine_fault(decoded.affine)
    if fault:
        raise input_error(path, fault, "an affine that places the pixels", "write it again with a valid sform or qform")
    return Placed(values[:, :, None] if values.ndim == 2 else values, decoded.affine if nifti else None)


def _is_slice(path: Path) -> bool:
    """Whether a NIfTI header has no third axis longer than 1."""
    try:
        return math.prod(load_nifti_header(path).get_data_shape()[2:3]) == 1
    except Exception:
        return True  # damaged or missing: reading it as a slice says how
