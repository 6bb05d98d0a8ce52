"""A process that makes thumbnails: lists of tasks come in and lists of names go out, one JSON value a line.

``python -m intarsia.batch.sheet.thumbnail_worker FOLDER``, started by :mod:`intarsia.batch.sheet.thumbnail_pool`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from intarsia.batch.sheet.thumbnails import READY, ThumbnailTask, make_thumbnail
from intarsia.parent_pipe import ParentPipe

__all__ = ["main"]

_GONE = 70  # exit status where the parent is gone


def main() -> None:
    """Make thumbnails until the input ends."""
    folder = Path(sys.argv[1])
    parent = ParentPipe(_GONE)
    parent.send(READY)
    for line in sys.stdin:
        answer: object
        try:
            answer = [make_thumbnail(ThumbnailTask.from_json(task), folder).name for task in json.loads(line)]
        except OSError as exc:
            answer = f"{exc.filename or folder}: {exc.strerror or exc}"
        parent.send(json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()
