"""Makes the files of this folder: small inputs that once broke a reader somewhere, or are built to.

    python tests/corpus/make.py

tests/test_fuzz.py reads every one of them; each must end as an InputError, quickly and without using memory. The files
fuzzed_* are not made here: tests/stress/fuzz.py found them, when they ended as another exception.
"""

import gzip
import io
import pickle
import struct
import zipfile
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from PIL import Image

FOLDER = Path(__file__).parent
MARKER = "code_from_a_pickle_ran"


class Malicious:
    """Unpickled, it runs a function."""

    def __reduce__(self):
        return Path.touch, (Path(MARKER),)


def main() -> None:
    """Write all files."""
    for make in (nifti, pictures, arrays, checkpoints, settings):
        for name, content in make().items():
            (FOLDER / name).write_bytes(content)


def nifti() -> dict[str, bytes]:
    """Claims, bombs and impossible geometry."""
    valid = nib.Nifti1Image(np.arange(16, dtype=np.float32).reshape(4, 4), np.eye(4))
    huge = valid.header.copy()
    huge["dim"][1:3] = 32767
    negative = valid.header.copy()
    negative["dim"][1] = -4
    axes = valid.header.copy()
    axes["dim"][0] = 30000
    offset = valid.header.copy()
    offset["vox_offset"] = 1e30
    affine = valid.header.copy()
    affine["srow_x"] = np.nan
    affine["sform_code"] = 1
    wide = nib.Nifti2Image(np.ones((4, 4), np.float32), np.eye(4)).header.copy()
    wide["dim"][1:3] = 10**6
    body = b"\0" * 4 + bytes(64)
    return {
        "claims_32767_squared.nii.gz": gzip.compress(huge.binaryblock + body, mtime=0),
        "claims_a_million_squared.nii": wide.binaryblock + body,
        "negative_side.nii": negative.binaryblock + body,
        "thirty_thousand_axes.nii": axes.binaryblock + body,
        "data_at_1e30.nii": offset.binaryblock + body,
        "affine_of_nan.nii": affine.binaryblock + body,
        "bomb_of_64_mib.nii.gz": gzip.compress(valid.to_bytes() + bytes(2**26), mtime=0),
        "truncated.nii.gz": gzip.compress(valid.to_bytes(), mtime=0)[:-12],
        "wrong_checksum.nii.gz": _flipped(gzip.compress(valid.to_bytes(), mtime=0), -7),
        "no_bytes.nii.gz": b"",
        "volume.nii.gz": gzip.compress(nib.Nifti1Image(np.zeros((17, 18, 19), np.uint8), None).to_bytes(), mtime=0),
    }


def pictures() -> dict[str, bytes]:
    """Image files that claim what they do not hold, or hold what is no slice."""
    size = struct.pack(">IIBBBBB", 10**6, 10**6, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", size), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    grey = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    stack = io.BytesIO()
    grey.save(stack, "TIFF", save_all=True, append_images=[grey, grey])
    hues = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    jpeg = bytearray(_encoded(grey, "JPEG"))
    sides = jpeg.index(b"\xff\xc0") + 5
    jpeg[sides : sides + 4] = struct.pack(">HH", 65500, 65500)
    return {
        "claims_a_million_squared.png": png,
        "claims_65500_squared.jpeg": bytes(jpeg),
        "claims_a_million_squared.tif": _tiff(10**6, 10**6),
        "endless_pages.tif": _tiff(8, 8),
        "stack_of_3_pages.tif": stack.getvalue(),
        "colours.png": _encoded(Image.fromarray(hues), "PNG"),
        "half.png": _encoded(grey, "PNG")[:60],
        "flipped_bit.png": _flipped(_encoded(grey, "PNG"), 50),
    }


def _tiff(width: int, height: int) -> bytes:
    """One uncompressed page of 64 bytes; a second page names the first one as the page that follows it."""
    page = 2 + 8 * 12 + 4
    tags = ((256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8 + 2 * page), (278, height), (279, 64))
    entries = struct.pack("<H", 8) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    pages = entries + struct.pack("<I", 8 + page) + entries + struct.pack("<I", 8)
    return b"II*\0" + struct.pack("<I", 8) + pages + bytes(64)


def arrays() -> dict[str, bytes]:
    """NPY files with code, other contents, claims, or a last channel that is no label."""
    archive = io.BytesIO()
    np.savez(archive, a=np.eye(4))
    infinite = io.BytesIO()
    np.save(infinite, np.array([[1, np.nan], [np.inf, 0]], np.complex64))
    grey, levels = np.eye(8, dtype=np.float32), np.arange(64, dtype=np.float32).reshape(8, 8)
    labels = {"of_nan": levels * np.nan, "below_zero": levels - 1, "of_fractions": levels / 63, "of_64_regions": levels}
    channels = {f"label_{name}.npy": _saved_array(np.dstack([grey, label])) for name, label in labels.items()}
    return channels | {
        "pickle.npy": pickle.dumps(Malicious()),
        "object_array.npy": _npy("|O", (4, 4), pickle.dumps(Malicious())),
        "archive.npy": archive.getvalue(),
        "complex.npy": infinite.getvalue(),
        "claims_a_million_squared.npy": _npy("<f8", (10**6, 10**6), bytes(64)),
        "one_value_of_a_gigabyte.npy": _npy("|V1000000000", (1,), bytes(64)),
        "negative_side.npy": _npy("<f4", (-4, 4), bytes(64)),
        "header_is_an_expression.npy": _npy("<f4", (4, 4), bytes(64)).replace(b"(4, 4)", b"4**9**9"),
    }


def _saved_array(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _npy(descr: str, shape: tuple[int, ...], body: bytes) -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def checkpoints() -> dict[str, bytes]:
    """Checkpoints that would run code, expand, or are damaged where torch does not look."""
    valid = io.BytesIO()
    torch.save({"weight": torch.arange(100.0)}, valid)
    values = torch.arange(100.0).numpy().tobytes()
    flipped = _flipped(valid.getvalue(), valid.getvalue().index(values) + 200)
    evil = io.BytesIO()
    torch.save({"weight": Malicious()}, evil)
    old = io.BytesIO()
    torch.save({"weight": Malicious()}, old, _use_new_zipfile_serialization=False)
    bomb = io.BytesIO()
    with zipfile.ZipFile(valid) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            large = bytes(2**26) if entry.filename.endswith("data/0") else source.read(entry)
            target.writestr(zipfile.ZipInfo(entry.filename), large, zipfile.ZIP_DEFLATED)
    return {
        "flipped_bit.pt": flipped,
        "truncated.pt": valid.getvalue()[:700],
        "code.pt": evil.getvalue(),
        "code_old_format.pt": old.getvalue(),
        "bomb_of_64_mib.pt": bomb.getvalue(),
        "a_pickle.pt": pickle.dumps(Malicious()),
        "a_list.pt": _saved([1, 2, 3]),
        "long_string.pt": b"\x80\x02X\xff\xff\xff\xff",
    }


def _saved(value) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def settings() -> dict[str, bytes]:
    """JSON that is none, too deep, or of another kind."""
    return {
        "deep.json": b"[" * 100_000,
        "list.json": b"[1]",
        "no_text.json": b"\xff\xfe\x00{",
        "long_number.json": b'{"seed": ' + b"9" * 10_000 + b"}",
        "cut.json": b'{"seed": 1, "val_',
    }


def _encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def _flipped(content: bytes, at: int) -> bytes:
    changed = bytearray(content)
    changed[at] ^= 0x40
    return bytes(changed)


if __name__ == "__main__":
    main()
