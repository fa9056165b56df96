"""What scripts/prepare_mri.py leaves beside the folders of slices that it writes."""

from pathlib import Path

PREPARATION, MANIFEST = "prepare_mri.json", "manifest.csv"


def preparation_of(folder: Path) -> Path | None:
    """The file that says how a folder of slices was prepared, also of one behind a link; None where it was not."""
    places = (folder.absolute().parent, folder.resolve().parent)
    return next((place / PREPARATION for place in places if (place / PREPARATION).is_file()), None)


def manifest_of(folder: Path) -> Path | None:
    """The table of all slices with their patients that lies beside a prepared folder, None where there is none."""
    prepared = preparation_of(folder)
    manifest = prepared and prepared.with_name(MANIFEST)
    return manifest if manifest and manifest.is_file() else None
