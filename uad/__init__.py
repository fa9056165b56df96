"""What every method of unsupervised anomaly detection here shares: data, training loop, results, scores.

`from uad import load_detector` gives a trained model to Python; see uad/detector.py.
"""

__all__ = ["load_detector"]


def __getattr__(name: str):
    """`load_detector` when it is asked for: it brings the networks with it, which the rest of uad does without."""
    if name == "load_detector":
        from uad.detector import load_detector

        return load_detector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
