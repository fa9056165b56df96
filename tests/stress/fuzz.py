"""Feed damaged files to every reader of the project and count what they do.

    python tests/stress/fuzz.py --inputs 10000 --seed 0

Valid files of each kind (NIfTI, gzip, PNG, JPEG, TIFF, NPY, masks, checkpoints, result folders, settings) are mutated:
bytes, integers and whole blocks are changed, removed, repeated or taken from another file; half of the time inside the
compressed or checksummed part, with the checksums made right again. Allowed are a value or an InputError. Anything else
is a failure: another exception, a crash, more than SECONDS of CPU time for one input, more than MEMORY_MIB, a file
written. Inputs run in child processes; those that fail are kept in --keep. The exit code is 1 if there was a failure.
"""

import argparse
import gzip
import io
import os
import resource
import signal
import struct
import sys
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813
import torch
from PIL import Image

from uad.checkpoints import CheckpointFiles, load_checkpoint
from uad.configuration import check_configuration
from uad.data.reading.formats import read_mask, read_slice
from uad.data.reading.layouts import Scan, Source, find_scans
from uad.data.reading.scans import load_scan
from uad.data.reading.volumes import read_header, read_volume
from uad.errors import InputError
from uad.files import write_json
from uad.results import ImageResult, ResultFolder, ResultWriter

SECONDS = 10
MEMORY_MIB = 1024
INTEGERS = (0, 1, -1, 7, 127, 128, 255, 32767, 65535, 10**6, 2**31 - 1, -(2**31), 2**32 - 1, 10**12, 2**63 - 1)


class Target(NamedTuple):
    """A file in a folder of its own, and what reads it. inside: also mutate below checksum or compression."""

    path: Path
    read: Callable[[], object]
    inside: Callable[[bytes, np.random.Generator], bytes] | None = None


def targets(root: Path) -> dict[str, Target]:
    """Valid files of every kind below `root`, by name."""
    rng = np.random.default_rng(0)
    image = rng.random((12, 10, 2)).astype(np.float32)
    grey = rng.integers(0, 256, (12, 10)).astype(np.uint8)
    found = {}
    for name, kind, array in (
        ("a.nii", nib.Nifti1Image, image),
        ("b.nii.gz", nib.Nifti1Image, image),
        ("c.nii.gz", nib.Nifti2Image, image),
    ):
        nib.save(kind(array, np.diag([1, -2, 3, 1])), root / name)
        inside = inside_gzip if name.endswith("gz") else None
        found[name] = Target(root / name, lambda p=root / name: read_slice(p, 2), inside)
    pictures = {
        "grey.png": (grey, {}),
        "deep.png": (grey.astype(np.uint16) * 256, {}),
        "rgba.png": (np.dstack([grey, grey, grey, grey | 255]), {}),
        "grey.jpeg": (grey, {}),
        "raw.tif": (grey, {}),
        "lzw.tif": (grey, {"compression": "tiff_lzw"}),
        "zip.tiff": (grey.astype(np.uint16), {"compression": "tiff_adobe_deflate"}),
    }
    for name, (array, options) in pictures.items():
        Image.fromarray(array).save(root / name, **options)
        inside = inside_png if name.endswith("png") else None
        found[name] = Target(root / name, lambda p=root / name: read_slice(p, 1), inside)
    np.save(root / "a.npy", image)
    found["a.npy"] = Target(root / "a.npy", lambda: read_slice(root / "a.npy", 2))
    Image.fromarray((grey > 200).astype(np.uint8)).save(root / "mask.png")
    found["mask.png"] = Target(root / "mask.png", lambda: read_mask(root / "mask.png"), inside_png)
    return found | volume_targets(root) | checkpoint_targets(root) | folder_targets(root, image[..., 0])


def volume_targets(root: Path) -> dict[str, Target]:
    """Volumes as they are prepared: both readers, and the description of a data set."""
    values = np.random.default_rng(1).random((6, 5, 4)).astype(np.float32)
    found = {}
    for name in ("volume_flair.nii", "packed_flair.nii.gz"):
        nib.save(nib.Nifti1Image(values, np.diag([-1, 2, 3, 1])), root / name)
        scan = Scan("scan", root, {"flair": Source((root / name,))})
        inside = inside_gzip if name.endswith("gz") else None
        found[name] = Target(root / name, lambda scan=scan: load_scan(scan), inside)
        found[f"header of {name}"] = Target(root / name, lambda p=root / name: read_header(p), inside)
    for name in ("volume.mha", "volume.nrrd"):
        sitk.WriteImage(sitk.GetImageFromArray(values), str(root / name))
        found[name] = Target(root / name, lambda p=root / name: read_volume(p))
    folder = root / "decathlon"
    (folder / "imagesTr").mkdir(parents=True)
    write_json(folder / "dataset.json", {"modality": {"0": "FLAIR", "1": "T1w"}, "training": [{"image": "a.nii"}]})
    found["dataset.json"] = Target(folder / "dataset.json", lambda: find_scans(folder, labelled=False))
    return found


def checkpoint_targets(root: Path) -> dict[str, Target]:
    """A full checkpoint, and one of the format that older releases of torch wrote."""
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    state = {"kind": "fuzzed", "format": 1, "step": 7, "config": {"n": 1}, "settings": {"lr": 0.1}, "ema_updates": 7}
    state |= {"models": {"m": model.state_dict()}, "ema": model.state_dict(), "scaler": {}, "skipped_steps": 0}
    state |= {"optimizers": {"m": optimizer.state_dict()}}
    files = CheckpointFiles(root / "run", "full{step}.pt", "ema{step}.pt")
    files.save(7, state, {"weights": model.state_dict()})
    old = root / "old.pt"
    torch.save(model.state_dict(), old, _use_new_zipfile_serialization=False)
    return {
        "full7.pt": Target(files.state_path(7), lambda: files.load(7, "fuzzed"), inside_zip),
        "old.pt": Target(old, lambda: load_checkpoint(old)),
    }


def folder_targets(root: Path, image: np.ndarray) -> dict[str, Target]:
    """The JSON and NIfTI files of a result folder, and the settings of a prepared folder."""
    folder = root / "results"
    run = {"method": "m", "dataset": "custom", "n_channels": 1, "img_size": 12, "normalise": "joint", "seed": 0}
    ResultWriter(folder, run).save_all([ImageResult("a", "p", np.eye(4), image[None], image[None], image)])
    settings = root / "settings.json"
    write_json(settings, {"seed": 1, "val_patients": 3})

    def load():
        return ResultFolder(folder).load("a")

    return {
        "run.json": Target(folder / "run.json", load),
        "record.json": Target(folder / "records" / "a.json", load),
        "map.nii.gz": Target(folder / "anomaly_map" / "a.nii.gz", load, inside_gzip),
        "settings.json": Target(settings, lambda: check_configuration(settings, {"seed": 1, "val_patients": 3})),
    }


def mutate(content: bytes, rng: np.random.Generator, other: bytes) -> bytes:
    """One to four changes of a kind that damage, storage or an attacker makes."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(len(data) + 1))
        length = int(rng.integers(1, 1 + max(1, len(data) // 4)))
        match rng.integers(8):
            case 0 if data:
                data[min(at, len(data) - 1)] ^= 1 << int(rng.integers(8))
            case 1:
                data[at : at + 4] = rng.bytes(4)
            case 2 | 3:
                order, code = rng.choice(list("<>")), rng.choice(list("hiq"))
                size = struct.calcsize(code)
                value = int(rng.choice(INTEGERS)) % 256**size
                data[at : at + size] = value.to_bytes(size, "little" if order == "<" else "big")
            case 4:
                del data[at:]
            case 5:
                del data[at : at + length]
            case 6:
                data[at:at] = data[at : at + length] * int(rng.integers(1, 4))
            case 7:
                start = int(rng.integers(len(other) + 1))
                data[at : at + length] = other[start : start + length]
    return bytes(data)


def inside_gzip(content: bytes, rng: np.random.Generator) -> bytes:
    """Mutate what is compressed; now and then let it unpack to 64 MiB."""
    data = gzip.decompress(content)
    if rng.random() < 0.01:
        return gzip.compress(data + bytes(2**26), 1)
    head = 352 if rng.random() < 0.7 else len(data)  # the header is where claims are made
    return gzip.compress(mutate(data[:head], rng, data) + data[head:], 1)


def inside_png(content: bytes, rng: np.random.Generator) -> bytes:
    """Mutate one chunk and make its length and checksum right again."""
    chunks, at = [], 8
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    chosen = int(rng.integers(len(chunks)))
    kind, body = chunks[chosen]
    chunks[chosen] = (kind, mutate(body, rng, content))
    if rng.random() < 0.2:
        chunks[chosen] = (kind, zlib.compress(mutate(bytes(200), rng, body)))
    parts = [struct.pack(">I", len(body)) + k + body + struct.pack(">I", zlib.crc32(k + body)) for k, body in chunks]
    return content[:8] + b"".join(parts)


def inside_zip(content: bytes, rng: np.random.Generator) -> bytes:
    """Mutate one entry of a checkpoint, mostly the pickle, and make the checksums right again."""
    source, target = zipfile.ZipFile(io.BytesIO(content)), io.BytesIO()
    names = source.namelist()
    chosen = next(n for n in names if n.endswith("data.pkl")) if rng.random() < 0.8 else str(rng.choice(names))
    compression = zipfile.ZIP_DEFLATED if rng.random() < 0.02 else zipfile.ZIP_STORED
    with zipfile.ZipFile(target, "w", compression) as archive:
        for name in names:
            data = source.read(name)
            archive.writestr(name, mutate(data, rng, data) if name == chosen else data)
    return target.getvalue()


def fuzzed(index: int, seed: int, known: dict[str, Target], contents: dict[str, bytes]) -> tuple[str, bytes]:
    """Input number `index`: the file that it stands for, and its bytes; a function of (seed, index)."""
    rng = np.random.default_rng((seed, index))
    name = list(known)[index % len(known)]
    if known[name].inside and rng.random() < 0.5:
        return name, known[name].inside(contents[name], rng)
    return name, mutate(contents[name], rng, contents[str(rng.choice(list(contents)))])


def verdict(read: Callable[[], object], allowance_mib: float = MEMORY_MIB) -> str:
    """What a reader made of its input: read, refused, or what was wrong. SECONDS of CPU time end the process."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak of resident memory starts anew
    before = _memory_mib("VmRSS")
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        read()
        outcome = "read"
    except InputError as error:
        outcome = "refused" if "MemoryError" not in str(error) else "MemoryError"
    except BaseException as error:
        outcome = f"{type(error).__name__}: {str(error)[:100]}"
    signal.setitimer(signal.ITIMER_PROF, 0)
    grown = _memory_mib("VmHWM") - before
    return outcome if grown < allowance_mib else f"{grown:.0f} MiB"


def _memory_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 2**10


def run_inputs(indices: range, seed: int, root: Path, report: Path) -> None:
    """In a child process: feed the inputs to their readers; a line of `report` is begun before each, ended after."""
    limit = int(_memory_mib("VmSize") + 8 * MEMORY_MIB) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # warnings of the decoding libraries
    known = targets(root)
    contents = {name: target.path.read_bytes() for name, target in known.items()}
    expected = _listing(root)
    with report.open("a") as lines:
        for index in indices:
            name, content = fuzzed(index, seed, known, contents)
            lines.write(f"{index}\t{name}\t")
            lines.flush()
            known[name].path.write_bytes(content)
            outcome = verdict(known[name].read)
            known[name].path.write_bytes(contents[name])
            if _listing(root) != expected:
                outcome = "a file was written"
            lines.write(f"{outcome}\n")


def _listing(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if path.is_file()}


def fuzz(inputs: int, seed: int) -> tuple[Counter, list[tuple[int, str, str]]]:
    """Feed `inputs` inputs; returns counts of (file, outcome), and the failures as (index, file, what happened)."""
    counts, failures, start = Counter(), [], 0
    while start < inputs:
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report.tsv"
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    root = Path(folder) / "files"
                    root.mkdir()
                    run_inputs(range(start, inputs), seed, root, report)
                    code = 0
                finally:
                    os._exit(code)
            status = os.waitpid(child, 0)[1]
            rows = [line.split("\t") for line in report.read_text().splitlines()] if report.exists() else []
        if not rows:
            raise RuntimeError(f"the child process ended with status {status} before its first input")
        for index, name, outcome in rows:
            outcome = outcome or f"the process died, status {status}"
            if outcome not in ("read", "refused"):
                failures.append((int(index), name, outcome))
                outcome = "failure"
            counts[name, outcome] += 1
        start = int(rows[-1][0]) + 1
    return counts, failures


def keep_inputs(failures: list[tuple[int, str, str]], seed: int, folder: Path) -> None:
    """Write the inputs that failed, to be looked at and added to the tests."""
    with tempfile.TemporaryDirectory() as root:
        known = targets(Path(root))
        contents = {name: target.path.read_bytes() for name, target in known.items()}
        folder.mkdir(parents=True, exist_ok=True)
        for index, _, _ in failures:
            name, content = fuzzed(index, seed, known, contents)
            (folder / f"{index}-{name}").write_bytes(content)


def main() -> int:
    """Fuzz and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000, help="number of inputs")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other inputs")
    parser.add_argument("--keep", type=Path, default=Path("fuzz_failures"), help="where failing inputs are kept")
    args = parser.parse_args()
    torch.set_num_threads(1)
    counts, failures = fuzz(args.inputs, args.seed)
    outcomes = ("read", "refused", "failure")
    print(f"{'file':16}" + "".join(f"{outcome:>10}" for outcome in outcomes))
    for name in dict.fromkeys(name for name, _ in counts):
        print(f"{name:16}" + "".join(f"{counts[name, outcome]:>10}" for outcome in outcomes))
    totals = [sum(counts[key] for key in counts if key[1] == outcome) for outcome in outcomes]
    print(f"{sum(totals):<16}" + "".join(f"{total:>10}" for total in totals))
    for index, name, what in failures[:20]:
        print(f"failure: input {index}, {name}: {what}")
    if failures:
        keep_inputs(failures, args.seed, args.keep)
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
