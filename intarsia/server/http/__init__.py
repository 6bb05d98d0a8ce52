"""HTTP before the routes: connections, guards, keys and limits, and errors as replies."""
