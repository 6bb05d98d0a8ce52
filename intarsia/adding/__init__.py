"""``intarsia models add``: files and folders become entries of the user's ``weights.toml``."""
