"""A training run and nothing else: options, the loop's other half, stages and what they are fed, rates, precision, what is watched.

May import: `command_line`, `inference`, `pictures`, `storage`, `system`, `dataloaders`, `networks`, `losses`.
"""
from command_line.declarations import Count, NotNegative, Positive, Share, Steps, Within
from command_line.options import Options, Presets, parse
from dataloaders.augmentation.frame import Fill
from engine.launch import launch
from engine.run import Run

__all__ = ["Count", "Fill", "NotNegative", "Options", "Positive", "Presets", "Run", "Share", "Steps", "Within", "launch", "parse"]
