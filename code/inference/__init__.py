"""How a case is predicted and scored, by the field `evaluation` of its data set: for training, testers and new images alike.

May import: `dataloaders`, `metrics`. Networks come as callables.
"""
