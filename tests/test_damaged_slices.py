"""Slice files that are damaged, huge or no image: each ends as an InputError, whatever broke in it."""

import gzip

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from test_formats import AFFINE, save_nifti

from uad.data.reading.formats import read_mask, read_slice, write_slice
from uad.errors import InputError


def valid_files(folder):
    """One valid file of each kind, as (path, n_channels)."""
    rng = np.random.default_rng(1)
    smooth = np.add.outer(np.arange(24), np.arange(20)).astype(np.uint8)
    write_slice(folder / "a.nii.gz", rng.random((2, 24, 20)), AFFINE)
    save_nifti(folder / "b.nii", rng.random((24, 20)).astype(np.float32))
    Image.fromarray(smooth).save(folder / "c.png")
    Image.fromarray(np.stack([smooth] * 3, axis=2)).save(folder / "d.jpg")
    Image.fromarray(smooth).save(folder / "e.tif", compression="tiff_lzw")
    np.save(folder / "f.npy", rng.random((24, 20)))
    return [(folder / name, 2 if name == "a.nii.gz" else 1) for name in sorted(p.name for p in folder.iterdir())]


@pytest.mark.filterwarnings("ignore")
def test_truncated_files_are_refused(tmp_path):
    for path, n_channels in valid_files(tmp_path):
        read_slice(path, n_channels)
        content = path.read_bytes()
        for share in (0, 0.01, 0.3, 0.6, 0.9):
            path.write_bytes(content[: int(len(content) * share)])
            with pytest.raises(InputError, match="cannot be decoded") as caught:
                read_slice(path, n_channels)
            assert caught.value.problems[0].where == str(path)
            assert path.name not in caught.value.problems[0].found


def test_files_that_are_damaged_alike_are_one_problem(tmp_path):
    for kind in ("png", "tif", "nii", "nii.gz", "npy"):
        found = []
        for name in "ab":
            (path := tmp_path / f"{name}.{kind}").write_bytes(b"junk")
            with pytest.raises(InputError) as caught:
                read_slice(path, 1)
            found += caught.value.problems
        assert str(InputError(found)).count("cannot be decoded") == 1, kind


def test_gzip_checksum_is_verified(tmp_path):
    path = tmp_path / "a.nii.gz"
    write_slice(path, np.random.default_rng(0).random((64, 64)), AFFINE)
    path.write_bytes(path.read_bytes()[:-1])  # all pixels are there, one byte of the trailer is not
    with pytest.raises(InputError, match="EOFError"):
        read_slice(path, 1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", range(6))
def test_flipped_bytes_never_end_in_another_error(tmp_path, kind):
    path, n_channels = valid_files(tmp_path)[kind]
    content = path.read_bytes()
    rng = np.random.default_rng(kind)
    refused = 0
    for _ in range(150):
        damaged = bytearray(content)
        # Headers decide most: half of the flips fall there.
        reach = len(content) if rng.random() < 0.5 else min(400, len(content))
        for position in rng.integers(0, reach, rng.integers(1, 5)):
            damaged[position] = rng.integers(0, 256)
        path.write_bytes(damaged)
        for read in (lambda: read_slice(path, n_channels), lambda: read_mask(path)):
            try:
                read()
            except InputError:
                refused += 1
    assert refused > 0


@pytest.mark.filterwarnings("ignore")
def test_flipped_bytes_inside_the_compressed_nifti(tmp_path):
    write_slice(tmp_path / "a.nii.gz", np.random.default_rng(0).random((24, 20)), AFFINE)
    content = gzip.decompress((tmp_path / "a.nii.gz").read_bytes())
    rng = np.random.default_rng(7)
    refused = 0
    for _ in range(200):
        damaged = bytearray(content)
        for position in rng.integers(0, 352, rng.integers(1, 6)):
            damaged[position] = rng.integers(0, 256)
        (tmp_path / "a.nii.gz").write_bytes(gzip.compress(damaged, 1))
        try:
            read_slice(tmp_path / "a.nii.gz", 1)
        except InputError:
            refused += 1
    assert refused > 0


def test_huge_claims_are_refused_before_memory_is_used(tmp_path):
    header = nib.Nifti1Header()
    header.set_data_shape((30000, 30000))
    header.set_data_dtype(np.float32)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(header.binaryblock + b"\0" * 2000))
    with (tmp_path / "b.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (30000, 30000)})
        file.truncate(30000 * 30000 * 4 + 1000)  # a sparse file that really has this length
    Image.new("1", (9000, 9000)).save(tmp_path / "c.png")
    for name in ("a.nii.gz", "b.npy", "c.png"):
        with pytest.raises(InputError, match="at most 67108864 values"):
            read_slice(tmp_path / name, 1)


def test_what_is_not_an_image_is_refused(tmp_path):
    (tmp_path / "text.png").write_text("not an image")
    np.savez(tmp_path / "archive.npz", a=np.ones(3))
    (tmp_path / "archive.npz").rename(tmp_path / "archive.npy")
    np.save(tmp_path / "object.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "complex.npy", np.ones((3, 3), dtype=complex))
    np.save(tmp_path / "empty.npy", np.ones((0, 3)))
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "plain.nii.gz").write_bytes(nib.Nifti1Image(np.ones((3, 3)), AFFINE).to_bytes())
    Image.new("L", (4, 4)).save(tmp_path / "pages.tif", save_all=True, append_images=[Image.new("L", (4, 4))])
    (tmp_path / "folder.png").mkdir()
    for path in [*tmp_path.iterdir(), tmp_path / "missing.png"]:
        with pytest.raises(InputError) as caught:
            read_slice(path, 1)
        (problem,) = caught.value.problems
        assert problem.where == str(path)
        assert problem.remedy
