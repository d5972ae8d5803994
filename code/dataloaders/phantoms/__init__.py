"""Anatomies that are drawn from a seed, so that everything runs on a machine with no data: arrays alone, no files (`layouts/phantom*.py`).
May import: numpy and scipy, nothing of this project.
"""
