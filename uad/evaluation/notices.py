"""What to know of the folders of an evaluation before its numbers are read."""

from uad.data.reading.patients import scan_of
from uad.evaluation.study import Study


def notices(study: Study, healthy: Study | None, calibration: Study | None) -> list[str]:
    """Of images that are scored, of healthy ones, and of those of a calibration."""
    said, here = [], study.folder.run.get("amp")
    for other in filter(None, (healthy, calibration)):
        if (there := other.folder.run.get("amp")) != here:
            made = f"Maps of {other.folder.folder} were made with --amp {there}, the others with {here}"
            said.append(f"{made}: rounding differs")
    if count := study.folder.run.get("volumes_paired_by_index"):
        paired = f"{count} volume(s) without a place in the patient (NPY): paired with their labels as they are stored"
        said.append(f"{paired}, slices along the third axis; arrays of SimpleITK, (Z, Y, X), have to be transposed")
    if study.near is not None:
        said.append(averaged_across(study, healthy))
    return said


def averaged_across(study: Study, healthy: Study | None) -> str:
    """Across which slices maps are averaged, so that names of other scans that are alike are seen."""
    scans = {scan_of(name) for name in study.names}
    said = f"Maps are averaged across slices: {len(study.names)} images of {len(scans)} scans, by their names"
    shared = scans & {scan_of(name) for name in healthy.names} if healthy else ()
    return said + (f"; {len(shared)} of these scans have slices in {healthy.folder.folder}, too" if shared else "")
