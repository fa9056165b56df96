"""What every method of unsupervised anomaly detection here shares: data, training loop, results, scores."""
