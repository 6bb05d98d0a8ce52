"""The addresses that a server answers, and their replies."""
