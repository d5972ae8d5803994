"""A finished run on new images: what is in a folder, masks and overlays, how sure each prediction is.

May import: `evaluation` and everything that it may import.
"""
