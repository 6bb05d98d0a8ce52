"""``validate``: everything that can be wrong with a manifest, found before a night is spent on it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from intarsia.batch.ledger.error_kinds import classify, sentence
from intarsia.batch.ledger.progress import Progress
from intarsia.batch.manifest.collisions import Collisions
from intarsia.batch.manifest.prompt_count import PromptCount
from intarsia.batch.manifest.reader import Manifest
from intarsia.batch.manifest.rows import Reader, Refused, Row, defaults_of, is_path, sources_of
from intarsia.batch.manifest.spec_hash import Specs
from intarsia.batch.running.task import keep_out
from intarsia.batch.settings import Options, Pair
from intarsia.engine.request import InpaintRequest
from intarsia.engine.resolve import resolve
from intarsia.errors import RequestError, SourceUnreadable, shown
from intarsia.images.access import Access
from intarsia.printable import printable
from intarsia.registry.registry import Registry

__all__ = ["Findings", "validate"]


@dataclass(frozen=True)
class Findings:
    """What validation found.

    Attributes:
        rows: looked at.
        problems: by line; none where the manifest is fit to be run.
        notes: what is left out of the manifest: files of a folder that are no images, columns without a name.
    """

    rows: int
    problems: tuple[Refused, ...]
    notes: tuple[str, ...] = ()


def validate(
    manifest: str | os.PathLike[str] | Pair,
    options: Options | None = None,
    *,
    decode: bool = True,
    out: str | os.PathLike[str] | None = None,
    watch: Callable[[Progress], None] | None = None,
) -> Findings:
    """Parse every row, look for its files, and hold ids and outputs against one another.

    Args:
        decode: also open every image and lay out every canvas, as a run would: finds damaged images, empty masks
            and sizes that do not fit. Without it only the files' being there is checked.
        out: the output folder of the run to come; with it, outputs that would replace images of rows are found.
        watch: called after every row, with how many there are and how many have been looked at.

    Raises:
        RequestError: the manifest or the defaults cannot be used at all, or there are no rows.
    """
    options = options or Options()
    out = None if out is None else Path(out)
    place = manifest if isinstance(manifest, Pair) else Path(manifest)
    opened = Manifest.of(place, options, out)
    reader = Reader(opened.base, options, defaults_of(options))
    checks = _RowChecks(options, decode)
    if out is not None:
        keep_out(opened, out)

    collisions, prompts = Collisions(out), PromptCount()
    total = 0 if watch is None else sum(1 for _ in islice(opened, options.limit))
    count = 0
    problems: list[Refused] = []
    rows = map(reader.row, opened)
    for row, problem in checks.all(islice(rows, options.limit)):
        count += 1
        if isinstance(row, Row):
            collisions.add(row)
            prompts.add(row)
        if problem is not None:
            problems.append(replace(problem, text=printable(problem.text)))
        if watch is not None:
            watch(Progress(rows=total, finished=count, failed=len(problems)))
    if not count:
        raise opened.without_rows()

    for row in rows:  # beyond the limit: they may still collide with those before it
        if isinstance(row, Row):
            collisions.add(row)
    checked = islice(map(reader.row, opened), options.limit)
    problems += _collisions(checked, collisions)

    problems.sort(key=lambda problem: problem.number)
    return Findings(count, tuple(problems), (*opened.notes, *prompts.notes()))


def _collisions(rows: Iterable[Row | Refused], collisions: Collisions) -> Iterator[Refused]:
    """Problems of rows that cannot be run beside the others; all rows have been added."""
    for row in rows:
        text = collisions.problem(row) if isinstance(row, Row) else ""
        if text:
            yield Refused(row.number, row.id, "param", printable(text))


class _RowChecks:
    """Checks of single rows."""

    def __init__(self, options: Options, decode: bool) -> None:
        self._decode = decode
        self._registry = Registry(options.weights, options.precision)
        self._specs = Specs(self._registry, options)
        self._access = Access(allow_private_urls=options.allow_private_urls, max_pixels=options.max_pixels)
        self._threads = options.threads or os.cpu_count() or 1

    def all(self, rows: Iterable[Row | Refused]) -> Iterator[tuple[Row | Refused, Refused | None]]:
        """Each row with its problem, if any, in order; decoding runs ahead in threads, a bounded number of rows."""
        if not self._decode:
            yield from ((row, self._one(row)) for row in rows)
            return

        with ThreadPoolExecutor(self._threads, "intarsia-validate") as pool:
            ahead: deque[tuple[Row | Refused, Future[Refused | None]]] = deque()
            for row in rows:
                ahead.append((row, pool.submit(self._one, row)))
                if len(ahead) > 4 * self._threads:
                    first, problem = ahead.popleft()
                    yield first, problem.result()

            for row, problem in ahead:
                yield row, problem.result()

    def _one(self, row: Row | Refused) -> Refused | None:
        if isinstance(row, Refused):
            return row
        try:
            request = InpaintRequest.parse(row.fields)
            if self._decode:
                resolve(request, self._registry, self._access)
            else:
                self._specs.outline(request)
                self._look(row)
        except Exception as exc:  # noqa: BLE001 - as in a run, it is this row's problem and no other's
            return Refused(row.number, row.id, classify(exc), sentence(exc))
        return None

    def _look(self, row: Row) -> None:
        """Its files are there; what is behind URLs is not asked."""
        sources = sources_of(row.fields)
        for name in InpaintRequest.parse(row.fields).required_images:
            if row.fields.get(name) is None:
                raise RequestError(name, message=f"{name} is required")
        for name, source in sources.items():
            if is_path(source) and not os.path.isfile(source):
                raise SourceUnreadable(name, source, f"file not found: {shown(source)}")
