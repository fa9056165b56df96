"""Percentile bootstrap over patients: seeded, stratified, the same resamples for everything that is compared."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, or the reason why there is none.

    value, low, high: None where undefined; reason: why value is; interval_reason: why low and high are;
    undefined_resamples: bootstrap resamples that were left out because the number is undefined on them.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None
    interval_reason: str | None = None
    undefined_resamples: int = 0

    def as_dict(self) -> dict:
        """Plain values for JSON, without what is empty, but always with `value`."""
        return {key: value for key, value in asdict(self).items() if key == "value" or value not in (None, 0)}

    def __str__(self) -> str:
        if self.value is None:
            return f"n/a ({self.reason})"
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def resample_weights(strata: Sequence[int], n_resamples: int, seed: int) -> np.ndarray:
    """How often each patient is drawn in each resample, (n_resamples, P) float64.

    strata: one number per patient; within each stratum as many patients are drawn, with replacement, as it
    has.
    """
    strata = np.asarray(strata)
    generator = np.random.default_rng(seed)
    weights = np.zeros((n_resamples, len(strata)))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        weights[:, members] = generator.multinomial(len(members), np.full(len(members), 1 / len(members)), n_resamples)
    return weights


def estimate(value: float, samples: np.ndarray, reason: str | None, interval_reason: str | None = None) -> Estimate:
    """An Estimate with the 95 % percentile interval of the defined `samples` (n_resamples,).

    value: NaN where undefined; reason: what to say then; interval_reason: why no interval may be given, if
    so.
    """
    if not np.isfinite(value):
        return Estimate(None, reason=reason or "undefined on these data")
    defined = samples[np.isfinite(samples)]
    undefined = len(samples) - len(defined)
    if interval_reason is None and len(defined) < 2:
        interval_reason = "fewer than two defined resamples"
    if interval_reason:
        return Estimate(float(value), interval_reason=interval_reason)
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(value), float(low), float(high), undefined_resamples=undefined)
