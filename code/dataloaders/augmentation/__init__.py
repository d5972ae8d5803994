"""How training images are changed: recipes and their draws, compiled and torch kernels, strong views, learned policies.
May import: `zoom`, `description`, `errors`.
"""
