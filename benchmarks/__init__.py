"""Measurements. Cases are data; a record holds no number unless its correctness check passed."""
