"""Anomaly maps of the recommended detection by what scripts/export_onnx.py writes, with numpy and onnxruntime alone.

    python docs/onnx_detection.py EXPORT images.npy maps.npy

images.npy: (N, C, S, S) float32, read and normalised as `reading` in EXPORT/config.json says, left and right along the
columns; maps.npy: (N, S, S). Equations as in docs/METHOD.md. Not here: other scores and code bits than the recommended
ones, several denoising steps, the average over the slices of a scan.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession

SUPPORTED = {"denoise_steps": 1, "code_bits": "threshold", "score": "evidence", "polarity": None}


def uniform_field(config: dict, name: str, seed: int = 0) -> np.ndarray:
    """The random numbers (copies, K, h, w) of the image of this name on a CPU: those of scripts/detect.py."""
    key = hashlib.sha256(f"int:{seed}\x1fstr:{name}".encode()).digest()
    generator = np.random.RandomState((int.from_bytes(key[:8], "little") >> 1) % 2**32)
    drawn = generator.randint(0, 2**32, (len(config["shifts"]), *config["code_shape"]), dtype=np.uint32)
    return (drawn % 2**24).astype(np.float32) / np.float32(2**24)


def anomaly_maps(folder: Path, images: np.ndarray, uniform: np.ndarray, left_right: int = 1) -> np.ndarray:
    """Maps (N, S, S) of images (N, C, S, S) in [0, 1]; uniform: (N, copies, K, h, w) in [0, 1).

    left_right: the axis of an image along which left and right lie, 0 rows or 1 columns.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    detection, constants, size = config["detection"], config["map"], images.shape[-1]
    chosen = {name: detection[name] for name in SUPPORTED} | {"noise_kernel": config["process"]["noise_kernel"]}
    if chosen != SUPPORTED | {"noise_kernel": "symmetric"}:
        raise ValueError(f"{folder} was exported with {chosen}; this example has only {SUPPORTED} and symmetric noise")
    encoder, flip_network, decoder = (
        InferenceSession(folder / f"{name}.onnx") for name in ("encoder", "flip_network", "decoder")
    )
    alpha_bar = np.float32(config["process"]["alpha_bar"][detection["noise_level"]])
    t = np.full(len(images), detection["noise_level"], np.int64)
    with np.errstate(divide="ignore"):  # P = 0 and 1
        threshold = np.log(np.float64(detection["prob_threshold"])) - np.log1p(-np.float64(detection["prob_threshold"]))
    flips, healthy = [], []
    for number, (down, right) in enumerate(config["shifts"]):
        copy = np.pad(images, ((0, 0), (0, 0), (0, down), (0, right)), "reflect")[..., down:, right:]
        (probability,) = encoder.run(None, {"image": copy})
        code = (probability > 0.5).astype(np.float32)  # equation 2
        noisy = (uniform[:, number] < alpha_bar * code + (1 - alpha_bar) / 2).astype(np.float32)  # 9
        (log_odds,) = flip_network.run(None, {"code": noisy, "t": t})
        flip = 1 / (1 + np.exp(-log_odds))
        flips.append(_enlarged(flip.mean(1, keepdims=True), size))
        if number < config["decoded_copies"]:
            clean = np.where(log_odds > threshold, np.abs(noisy - flip), code) > 0.5
            healthy += decoder.run(None, {"code": clean.astype(np.float32)})
    difference = images - _mean_of_shifted(healthy, config["shifts"])
    for axis in (2, 3):
        difference = _smoothed(difference, axis, constants["gaussian"])
    d = np.sqrt((difference**2).sum(1))  # 19
    maps = d / (d + constants["half_believed"]) * _mean_of_shifted(flips, config["shifts"])[:, 0]  # 20
    maps /= np.maximum(maps.mean((1, 2), keepdims=True, dtype=np.float64), 1e-12) ** constants["balance"]  # 21
    if not detection["compare_sides"]:
        return maps
    if left_right == 1:
        return _one_sided(maps, images, constants["air"])
    return _one_sided(maps.swapaxes(1, 2), images.swapaxes(2, 3), constants["air"]).swapaxes(1, 2)


def _enlarged(values: np.ndarray, size: int) -> np.ndarray:
    """(N, 1, h, h) -> (N, 1, S, S), bilinear; beyond the outermost centres their values go on."""
    count = values.shape[-1]
    places = np.clip((np.arange(size) + 0.5) * count / size - 0.5, 0, count - 1)
    weights = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(count))).astype(np.float32)
    return weights @ values @ weights.T


def _mean_of_shifted(values: list[np.ndarray], shifts: list) -> np.ndarray:
    """Equation 17: each moved back to its place, averaged over those that show a pixel."""
    total, count, size = np.zeros_like(values[0]), np.zeros(values[0].shape[-2:], np.float32), values[0].shape[-1]
    for value, (down, right) in zip(values, shifts, strict=False):  # fewer copies are decoded than there are
        total[..., down:, right:] += value[..., : size - down, : size - right]
        count[down:, right:] += 1
    return total / count


def _smoothed(x: np.ndarray, axis: int, weights: list[float]) -> np.ndarray:
    reach = [(0, 0)] * 4
    reach[axis] = (len(weights) // 2,) * 2
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, reach, "reflect"), len(weights), axis)
    return windows @ np.array(weights, np.float32)


def _one_sided(maps: np.ndarray, images: np.ndarray, air: float) -> np.ndarray:
    """Equation 22, with left and right along the columns: the mirror is twice the mean column of the body."""
    columns, body = np.arange(images.shape[-1]), (images > air).any(1).sum(1)
    total = body.sum(1)
    middle = np.where(total, (2 * (body * columns).sum(1) + total // 2) // np.maximum(total, 1), columns[-1])
    mirrored = middle[:, None] - columns
    inside = ((mirrored >= 0) & (mirrored <= columns[-1]))[:, None]
    other = np.take_along_axis(maps, np.clip(mirrored, 0, columns[-1])[:, None], 2) * inside
    return maps * (maps / np.maximum(maps + other, np.finfo(np.float32).tiny))


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("python docs/onnx_detection.py FOLDER_OF_THE_EXPORT IMAGES.npy MAPS.npy")
    export, source, target = map(Path, sys.argv[1:])
    pictures, settings = np.load(source), json.loads((export / "config.json").read_text(encoding="utf-8"))
    if pictures.ndim != 4 or not (pictures.min() >= 0 and pictures.max() <= 1):  # NaN is not, either
        sys.exit(
            f"{source}: {pictures.dtype} {pictures.shape}, not (N, C, S, S) in [0, 1], normalised as config.json says"
        )
    drawn = [uniform_field(settings, f"{source.stem}_{number:03d}") for number in range(len(pictures))]
    try:
        maps = anomaly_maps(export, pictures.astype(np.float32), np.stack(drawn))
    except ValueError as error:
        sys.exit(str(error))
    np.save(target, maps)
