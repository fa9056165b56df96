"""Trained models, a folder each; see README.md beside this file."""
