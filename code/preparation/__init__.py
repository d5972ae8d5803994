"""Official downloads made into the layouts that we train on, the check of a data folder, a picture of its views. One file a download.

May import: `dataloaders`, `pictures`.
"""
