"""Images -> batches for training: order, variation, synthetic lesions."""
