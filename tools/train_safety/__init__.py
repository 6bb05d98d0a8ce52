"""Training of inlay-tiny-safety, the packaged stand-in for a safety checker."""
