"""A run on the disk: its folder's name, checkpoints that survive a kill, its logbook, its lock, what made it.

May import: `system`, `dataloaders` (descriptions and errors).
"""
