"""The machine that a run meets: devices, several processes, signals, child processes, and the places where fault tests strike.

May import: `losses.ranks` (sums over processes) and `dataloaders.errors`.
"""
