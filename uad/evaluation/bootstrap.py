"""Percentile bootstrap over patients: seeded, stratified, the same resamples for everything that is compared."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

LEVEL = 0.95
DRAWN_TOGETHER = 50


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
        """Plain values for JSON, without what is empty, but always with `value`; a bound of 0 is a number."""
        known = {key: value for key, value in asdict(self).items() if value is not None}
        if not self.undefined_resamples:
            del known["undefined_resamples"]
        return {"value": None} | known

    def __str__(self) -> str:
        if self.value is None:
            return f"n/a ({self.reason})"
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def resample_weights(strata: Sequence[int], n_resamples: int, seed: int) -> np.ndarray:
    """How often each patient is drawn in each resample, (n_resamples, P), in the smallest unsigned integers.

    strata: one number per patient; within each stratum as many patients are drawn, with replacement, as it
    has.
    """
    strata = np.asarray(strata)
    generator = np.random.default_rng(seed)
    parts, order = [], []
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        order.append(members)
        parts.append(_drawn(generator, len(members), n_resamples))
    return np.concatenate(parts, axis=1)[:, np.argsort(np.concatenate(order))]


def _drawn(generator: np.random.Generator, count: int, n_resamples: int) -> np.ndarray:
    """How often each of `count` is drawn, (n_resamples, count); few at a time, since they come as 64 bits."""
    shares = np.full(count, 1 / count)
    starts = range(0, n_resamples, DRAWN_TOGETHER)
    sizes = [min(DRAWN_TOGETHER, n_resamples - start) for start in starts]
    chunks = (generator.multinomial(count, shares, size) for size in sizes)
    narrow = [chunk.astype(np.min_scalar_type(chunk.max())) for chunk in chunks]
    return np.concatenate(narrow) if narrow else np.zeros((0, count), np.uint8)


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
