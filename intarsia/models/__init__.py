"""The networks, their configs, and the loaders of their weights. Everything here needs torch."""
