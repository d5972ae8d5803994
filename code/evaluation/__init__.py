"""Finished runs: opened, tested, written down as results; weights of other programs made into runs.

May import: everything below the scripts but `prediction`, `preparation`, `reporting` and `sweeps`.
"""
