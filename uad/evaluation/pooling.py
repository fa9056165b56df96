"""Histograms of one contender's scores, per patient, so that resamples of patients are sums of histograms."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import sparse

from uad.evaluation.metrics import N_BINS

KINDS = ("positives", "negatives", "overlaps", "healthy")


def sparse_histogram(bins: np.ndarray, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(bins that occur, their total weight) of bin numbers of any shape."""
    total = np.bincount(bins.ravel(), None if weights is None else weights.ravel(), minlength=N_BINS)
    kept = np.flatnonzero(total)
    return kept.astype(np.uint16), total[kept].astype(np.float64)


class PatientHistograms:
    """Weighted counts per bin (0..N_BINS-1) and patient, stored sparsely."""

    def __init__(self):
        self._by_patient: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def add(self, patient: str, bins: np.ndarray, counts: np.ndarray) -> None:
        """Add `counts` (K,) at `bins` (K,) to the patient's histogram."""
        total = np.bincount(bins, weights=counts, minlength=N_BINS).astype(np.float64)  # of nothing: integers
        if patient in self._by_patient:
            before, weights = self._by_patient[patient]
            total[before] += weights
        kept = np.flatnonzero(total).astype(np.int32)  # what sparse matrices take
        self._by_patient[patient] = (kept, total[kept])

    def matrix(self, patients: Sequence[str]) -> sparse.csr_array:
        """(P, N_BINS), one row a patient; a patient that was never added has a row of zeros."""
        none = (np.zeros(0, dtype=np.int32), np.zeros(0))
        rows = [self._by_patient.get(patient, none) for patient in patients]
        pointers = np.cumsum([0, *(len(bins) for bins, _ in rows)])
        bins = np.concatenate([bins for bins, _ in rows])
        weights = np.concatenate([weights for _, weights in rows])
        return sparse.csr_array((weights, bins, pointers), shape=(len(rows), N_BINS))


class Pool:
    """One contender's histograms of every kind: of lesion pixels, of other pixels, of lesion pixels
    weighted by 1 / region size, and of the pixels of healthy images.
    """

    def __init__(self):
        self._kinds = {kind: PatientHistograms() for kind in KINDS}

    def add(self, patient: str, histograms: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
        """Add an image's histograms, {kind: (bins, weights)}."""
        for kind, (bins, weights) in histograms.items():
            self._kinds[kind].add(patient, bins, weights)

    def matrices(self, patients: Sequence[str]) -> tuple[dict[str, sparse.csr_array], np.ndarray]:
        """({kind: (P, B) matrix}, the B bins that occur in any kind, ascending); B is at least 1."""
        matrices = {kind: histograms.matrix(patients) for kind, histograms in self._kinds.items()}
        bins = np.unique(np.concatenate([matrix.indices for matrix in matrices.values()]))
        bins = bins if len(bins) else np.zeros(1, dtype=bins.dtype)
        return {kind: matrix[:, bins] for kind, matrix in matrices.items()}, bins

    def total(self, kind: str, patients: Sequence[str]) -> np.ndarray:
        """The histogram of one kind over all bins and the given patients, (N_BINS,)."""
        return np.asarray(self._kinds[kind].matrix(patients).sum(axis=0)).ravel()
