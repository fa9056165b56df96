"""The methods that the masked Bernoulli diffusion is compared with, each a module behind one seam (see methods)."""
