"""Images: read from anywhere, decoded to upright 8-bit RGB, encoded and written."""
