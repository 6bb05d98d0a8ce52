"""Offline batch inpainting: every row of a manifest is done, or named with its reason.

>>> import intarsia.batch
>>> stats = intarsia.batch.run("manifest.jsonl", "out", intarsia.batch.Options(workers=2))  # doctest: +SKIP
>>> intarsia.batch.report("out")["failed"]  # doctest: +SKIP

``docs/batch.md`` describes manifests, results, resuming, shards and runners.
"""

from __future__ import annotations

from intarsia.batch.ledger.merge import merge
from intarsia.batch.ledger.report import report
from intarsia.batch.ledger.run_stats import RunStats
from intarsia.batch.runner import retry, run
from intarsia.batch.settings import Options, Pair
from intarsia.batch.sheet.contact_sheet import Sheet, sheet
from intarsia.batch.validate import Findings, validate

__all__ = ["Findings", "Options", "Pair", "RunStats", "Sheet", "merge", "report", "retry", "run", "sheet", "validate"]
