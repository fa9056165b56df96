"""Bernoulli diffusion on binary codes."""
