"""``intarsia models add``: files and folders that people have become entries of their own ``weights.toml``."""
