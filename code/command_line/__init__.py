"""What a user may ask for: the common options, and the command line that is read into them.

May import: `storage` (where the repository lies), `system` (how a program ends) and `dataloaders` (the catalogue, descriptions, errors).
"""
