"""The binarizing autoencoder: image <-> bits."""
