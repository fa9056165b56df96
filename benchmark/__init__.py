"""Measures speed, memory and quality against the released procedure: python -m benchmark."""
