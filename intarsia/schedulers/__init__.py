"""Samplers as data: a scheduler's name and settings → a table of coefficients that one loop runs.

The main path: ``names`` (which solver) and ``settings`` (what is requested, what it resolves to) → ``noise_schedule``
(the model's noise) → ``spacing`` (levels) → one file per solver, listed in ``solvers`` (coefficients, written with
``rows``) → ``build`` (puts them together) → ``tables`` (the format).

A solver from outside the package is a :class:`Solver`, made known by :func:`register` or by an entry point of the group
``intarsia.schedulers``.
"""

from __future__ import annotations

from intarsia.schedulers.build import table
from intarsia.schedulers.descriptions import SchedulerInfo, catalogue, has_curves, info
from intarsia.schedulers.names import ALIASES, NAMES, register, resolve, resolve_documented, resolve_sampler
from intarsia.schedulers.noise_schedule import NoiseSchedule, alpha_sigma
from intarsia.schedulers.rows import Rows, SamplingRun
from intarsia.schedulers.solvers import Solver
from intarsia.schedulers.spacing import Grid
from intarsia.schedulers.spellings import Sampler
from intarsia.schedulers.table_json import table_from_json, table_to_json
from intarsia.schedulers.tables import Table
from intarsia.schedulers.tracing import trace

__all__ = [
    "ALIASES",
    "Grid",
    "NAMES",
    "NoiseSchedule",
    "Rows",
    "Sampler",
    "SamplingRun",
    "SchedulerInfo",
    "Solver",
    "Table",
    "alpha_sigma",
    "catalogue",
    "has_curves",
    "info",
    "register",
    "resolve",
    "resolve_documented",
    "resolve_sampler",
    "table",
    "table_from_json",
    "table_to_json",
    "trace",
]
