"""Rows of a table as the float32 numbers that backends run: the one layout of all of them.

A row is its matrix ``[S, S + 2]`` and one number for each :class:`Field`. The fused kernels read both from one record
(:func:`pack_rows`), the step graph of ONNX Runtime reads the fields of a start row and of all rows
(:mod:`intarsia.backends.onnx.state`), torch's own operations read matrices (:func:`pack_matrices`).
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from intarsia.errors import BackendError
from intarsia.schedulers.tables import Array, Table

__all__ = ["Field", "pack_matrices", "pack_rows", "record_size", "repaint_levels", "row_fields", "start_fields"]


class Field(IntEnum):
    """The numbers of a row behind its matrix, in their order.

    The step graph of ONNX Runtime splits them by this order and ends before ``INPUT_SCALE``, so a change here needs
    ``python -m intarsia.export.step``.

    Attributes:
        GUIDED: what the guidance scale is multiplied by: 1, or 0 in a row that is not guided.
        KNOWN_IMAGE: share of the image's latents in the known region after the row.
        KNOWN_NOISE: share of the starting noise there.
        KNOWN_SAMPLE: share of the sample itself there: 1 where the known region is not overwritten.
        LANGEVIN_SNR: ratio of norms by which a Langevin row takes its step size, or 0.
        NEXT_INPUT_SCALE: scale of the network's input in the row after it.
        REPAINT_LEVEL: the mask's level above which a latent is repainted in the row; see :func:`repaint_levels`.
        INPUT_SCALE: scale of the network's input in this row.
    """

    GUIDED = 0
    KNOWN_IMAGE = 1
    KNOWN_NOISE = 2
    KNOWN_SAMPLE = 3
    LANGEVIN_SNR = 4
    NEXT_INPUT_SCALE = 5
    REPAINT_LEVEL = 6
    INPUT_SCALE = 7


def repaint_levels(table: Table) -> Array:
    """The mask's level above which a latent is repainted, for each row: from below 1 to 0 in equal steps.

    So a soft mask repaints what is gray from the row on at which its level exceeds this, the darker the later
    (Levin & Fried 2023, "Differential Diffusion", algorithm 1). A hard mask is 0 and 1, on one side in every row.

    Returns:
        float64 ``[rows]``, levels 0 … 1.
    """
    rows = len(table)
    return 1 - np.arange(1, rows + 1) / rows


def row_fields(table: Table, *, last_scale: float, keeps_known: bool = True) -> Array:
    """The fields of every row.

    Args:
        last_scale: ``NEXT_INPUT_SCALE`` of the last row, which none follows.
        keeps_known: the known region is overwritten after each row.

    Returns:
        float64 ``[R, len(Field)]``.
    """
    fields = np.zeros((len(table), len(Field)))
    fields[:, Field.GUIDED] = table.guided
    if keeps_known:
        fields[:, Field.KNOWN_IMAGE] = table.known_image
        fields[:, Field.KNOWN_NOISE] = table.known_noise
    else:
        fields[:, Field.KNOWN_SAMPLE] = 1

    fields[:, Field.LANGEVIN_SNR] = table.langevin_snr
    fields[:, Field.REPAINT_LEVEL] = repaint_levels(table)
    fields[:, Field.INPUT_SCALE] = table.input_scale
    fields[:-1, Field.NEXT_INPUT_SCALE] = table.input_scale[1:]
    fields[-1, Field.NEXT_INPUT_SCALE] = last_scale
    return fields


def start_fields(table: Table) -> Array:
    """The fields ``[len(Field)]`` of a row before the first one, which evaluates nothing and keeps the sample."""
    fields = np.zeros(len(Field))
    fields[Field.KNOWN_SAMPLE] = 1
    fields[Field.NEXT_INPUT_SCALE] = table.input_scale[0]
    return fields


def pack_matrices(table: Table) -> NDArray[np.float32]:
    """The matrix of every row, float32 ``[R, S, S + 2]``."""
    return table.matrix.astype(np.float32)


def record_size(slots: int) -> int:
    """Length of one row's record: its matrix ``[slots, slots + 2]``, then its fields."""
    return _matrix_size(slots) + len(Field)


def _matrix_size(slots: int) -> int:
    return slots * (slots + 2)


def pack_rows(table: Table, slots: int, rows: int) -> NDArray[np.float32]:
    """A table as records for lanes of ``slots`` state slots and ``rows`` rows; what the table does not fill is zero.

    ``NEXT_INPUT_SCALE`` of the last row is zero.

    Returns:
        float32 ``[rows, record_size(slots)]``.

    Raises:
        BackendError: the table has more slots or rows.
    """
    count = len(table)
    used = table.state_slots
    if used > slots or count > rows:
        raise BackendError(f"a table of {count} rows and {used} slots does not fit lanes of {rows} and {slots}")

    # the columns of output and noise are the last two, however many slots are before them
    state_columns, input_columns = np.split(table.matrix, [used], axis=2)
    matrices = np.zeros((count, slots, slots + 2))
    matrices[:, :used, :used] = state_columns
    matrices[:, :used, slots:] = input_columns

    matrix_size = _matrix_size(slots)
    records = np.zeros((rows, record_size(slots)), np.float32)
    filled = records[:count]
    filled[:, :matrix_size] = matrices.reshape(count, matrix_size)
    filled[:, matrix_size:] = row_fields(table, last_scale=0.0)
    return records
