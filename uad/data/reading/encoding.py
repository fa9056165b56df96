"""Images as the bytes of a file: the same bytes for the same content, written whole."""

import gzip
from pathlib import Path

import nibabel as nib

from uad.files import written_whole


def write_nifti(path: Path | str, nifti: nib.Nifti1Image) -> None:
    """Write an image whole, in millimetres, without a time stamp."""
    nifti.header.set_xyzt_units("mm")
    with (
        written_whole(path) as temporary,
        temporary.open("wb") as file,
        gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=4, mtime=0) as stream,
    ):
        stream.write(nifti.to_bytes())
