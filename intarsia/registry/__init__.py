"""The registry of models: entries of ``weights.toml`` and the files behind them."""
