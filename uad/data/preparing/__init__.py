"""Raw releases -> folders of slices."""
