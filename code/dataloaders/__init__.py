"""What lies on the disk, as cases to split and score and as batches to train on: data sets described in fields (`description`), found
(`catalog`) and read (`layouts`, `reading`), splits, batches, augmentation. Contracts: `description.py`.
May import: numpy, torch and what reads files; no options, no run, no network, no metric.
"""
