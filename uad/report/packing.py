"""Arrays as text inside a page, so exactly that counts made there are those made here.

A map is packed as its bins (see uad.evaluation.metrics), 16-bit numbers in the order of the scores: whether a pixel
reaches a threshold is then a comparison of whole numbers. Pictures are only looked at: 8 bits.
"""

import base64
import json
import math
import zlib

import numpy as np

from uad.evaluation.metrics import float16_bins

# Higher levels take several times as long for a few per cent.
_LEVEL = 6


def packed(array: np.ndarray) -> dict:
    """An array of uint8 or uint16 as {"shape", "bits", "data"}: deflated (zlib), in base64.

    Of 16 bits all low bytes come first, then all high bytes, which differ little between neighbours and deflate well.
    ValueError for other types.
    """
    array = np.ascontiguousarray(array)
    if array.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{array.dtype}: only uint8 and uint16 are packed")
    halves = [array] if array.dtype == np.uint8 else [array & 0xFF, array >> 8]
    content = b"".join(half.astype(np.uint8).tobytes() for half in halves)
    data = base64.b64encode(zlib.compress(content, _LEVEL)).decode()
    return {"shape": list(array.shape), "bits": 8 * array.itemsize, "data": data}


def picture(values: np.ndarray) -> np.ndarray:
    """Values in [0, 1], others cut off, as uint8: 255 is 1."""
    return np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)


def bins_at(scores: np.ndarray, threshold: float) -> tuple[np.ndarray, float]:
    """Bins (uint16, same shape) of scores >= 0 such that a score reaches the threshold > 0 just where its bin reaches
    that of the threshold; and their scale: a bin stands for its float16 number over the scale.

    Scores are divided by the threshold, which becomes a power of two, and rounded down. Raises ValueError for a
    threshold that is not positive.
    """
    if not threshold > 0:
        raise ValueError(f"threshold {threshold}: it must be positive")
    ratios = np.asarray(scores, dtype=np.float64) / threshold
    factor = math.ldexp(1.0, 14 - math.frexp(max(1.0, float(ratios.max(initial=0.0))))[1])
    exact = ratios * factor
    near = exact.astype(np.float16)
    lower = np.where(near.astype(np.float64) > exact, np.nextafter(near, np.float16(0)), near)
    return float16_bins(lower, 1.0), factor / threshold


def json_in_page(value) -> str:
    """JSON that can stand inside a script element: no text in it can end the element. ValueError for NaN."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
