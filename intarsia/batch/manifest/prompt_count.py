"""How many rows have a prompt: a batch without any is more often a forgotten option than what was meant."""

from __future__ import annotations

from intarsia.batch.manifest.rows import Row

__all__ = ["PromptCount"]


class PromptCount:
    """Counts rows, and those with a prompt."""

    def __init__(self) -> None:
        self._rows = 0
        self._prompts = 0

    def add(self, row: Row) -> None:
        """Take in a row."""
        self._rows += 1
        self._prompts += bool(str(row.fields.get("prompt") or "").strip())

    def notes(self) -> tuple[str, ...]:
        """A sentence where no row has a prompt, else none."""
        if self._prompts or not self._rows:
            return ()
        rows = "the only row has no prompt" if self._rows == 1 else f"none of {self._rows:,} rows has a prompt"
        return (f"{rows}: what the mask covers is filled with background; --prompt TEXT is for all rows",)
