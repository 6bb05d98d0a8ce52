"""Offline batch inpainting: every row of a manifest is done, or named with its reason.

>>> import inlay.batch
>>> tally = inlay.batch.run("manifest.jsonl", "out", inlay.batch.Options(workers=2))  # doctest: +SKIP
>>> inlay.batch.report("out")["failed"]  # doctest: +SKIP

``docs/batch.md`` describes manifests, results, resuming, shards and runners.
"""

from __future__ import annotations

from inlay.batch.merge import merge
from inlay.batch.report import report
from inlay.batch.runner import retry, run
from inlay.batch.settings import Options, Pair
from inlay.batch.tally import Tally
from inlay.batch.validate import Findings, validate

__all__ = ["Findings", "Options", "Pair", "Tally", "merge", "report", "retry", "run", "validate"]
