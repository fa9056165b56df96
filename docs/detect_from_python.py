"""A shipped model judges images from Python. Run it: python docs/detect_from_python.py

The images are retinal phantoms, which are computed here. Your own scan is an array, a tensor, or a file by its name.
"""

from uad import load_detector
from uad.data.phantoms.oct import oct_scan

HEALTHY, DISEASED = 4, 3  # patients of the phantoms, the latter with macular oedema


def main() -> None:
    """Judge a healthy and a diseased phantom."""
    detector = load_detector("oct-phantom", device="cpu")
    for patient in (HEALTHY, DISEASED):
        image, lesion = oct_scan(7, patient, 0)  # (H, W) uint8 and bool
        answer = detector(image[None])  # (C, H, W), any intensities
        marked = answer.mask & lesion
        print(
            f"score {answer.score:.3f}, higher than {answer.percentile:.0f} % of {answer.healthy_patients} healthy "
            "patients; "
            f"{answer.mask.mean():.1%} of the image marked, {marked.sum()} of {lesion.sum()} pixels of the lesion"
        )


if __name__ == "__main__":
    main()
