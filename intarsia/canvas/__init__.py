"""The canvas of one request: what is generated, under which mask, and how it is pasted back."""
