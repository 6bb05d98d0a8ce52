"""Manifests: lines of a file, a table or a folder become rows with an id, outputs and a request."""
