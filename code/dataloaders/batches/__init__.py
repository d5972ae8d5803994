"""Images decoded once (`store`, `cache`), which of them stand in a batch (`sampling`), and the batch (`loader`).
May import: `augmentation`, `description`, `errors`.
"""
