"""Samplers as data: a scheduler's name and settings → a table of coefficients that one loop runs.

The main path: ``names`` and ``settings`` (what was asked) → ``noise_schedule`` (the model's noise) → ``spacing``
(levels) → one file per solver, named in ``solvers`` (coefficients, written with ``rows``) → ``build`` (puts them
together) → ``tables`` (the format).
"""

from __future__ import annotations

from intarsia.schedulers.build import table
from intarsia.schedulers.descriptions import SchedulerInfo, catalogue, info
from intarsia.schedulers.names import ALIASES, NAMES, resolve
from intarsia.schedulers.noise_schedule import NoiseSchedule
from intarsia.schedulers.tables import Table
from intarsia.schedulers.tracing import trace

__all__ = [
    "ALIASES",
    "NAMES",
    "NoiseSchedule",
    "SchedulerInfo",
    "Table",
    "catalogue",
    "info",
    "resolve",
    "table",
    "trace",
]
