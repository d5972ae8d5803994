"""Pictures of images, labels and predictions: flat ones and learning curves (`flat`), volumes (`volumes`).

May import: `dataloaders` (cases as read).
"""
