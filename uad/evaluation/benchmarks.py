"""The protocols of published benchmarks by their names."""

from uad.evaluation import bmad, medianomaly, volumes

BENCHMARKS = {"bmad": bmad.evaluate, "medianomaly": medianomaly.evaluate, "volumes": volumes.evaluate}
