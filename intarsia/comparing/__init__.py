"""Comparisons: every combination of some fields' values over one image, as one mixed batch and one labelled grid."""
