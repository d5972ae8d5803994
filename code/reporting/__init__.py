"""From result files to tables, tests of significance, figures and one HTML page."""
