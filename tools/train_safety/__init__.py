"""Training of intarsia-tiny-safety, the packaged stand-in for a safety checker."""
