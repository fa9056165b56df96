"""Files of slices and volumes -> checked, normalised images."""
