"""Offline batch inpainting: every row of a manifest is done, or named with its reason.

>>> import intarsia.batch
>>> tally = intarsia.batch.run("manifest.jsonl", "out", intarsia.batch.Options(workers=2))  # doctest: +SKIP
>>> intarsia.batch.report("out")["failed"]  # doctest: +SKIP

``docs/batch.md`` describes manifests, results, resuming, shards and runners.
"""

from __future__ import annotations

from intarsia.batch.merge import merge
from intarsia.batch.report import report
from intarsia.batch.runner import retry, run
from intarsia.batch.settings import Options, Pair
from intarsia.batch.tally import Tally
from intarsia.batch.validate import Findings, validate

__all__ = ["Findings", "Options", "Pair", "Tally", "merge", "report", "retry", "run", "validate"]
