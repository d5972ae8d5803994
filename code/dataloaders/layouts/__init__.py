"""Readers of the file layouts in which people download these data sets; each is a `Source` (`description.py`)."""
