"""The contact sheet of a run: before, mask and after of every row, in pages of HTML or as one image."""
