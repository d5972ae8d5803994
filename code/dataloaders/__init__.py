"""Data sets, splits and folds, label budgets, batches and augmentation. Contracts: `description.py`."""
