"""Measuring speed, memory and quality: what scripts/benchmark.py is made of."""
