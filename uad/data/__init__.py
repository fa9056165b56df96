"""Slices: reading, checking, preparing, synthesising."""
