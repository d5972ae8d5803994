"""What prints a report and computes nothing: screen, Markdown, LaTeX, CSV, PDF figures, the page.

May import: `reporting`, `pictures`.
"""
