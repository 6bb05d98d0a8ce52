"""The processes of a batch: workers, the supply of rows, what becomes of failures."""
