"""Phantoms of brains with tumours and of retinas, in the layout of the raw releases."""
