"""A table's rows as numbers, as all backends read them."""

from __future__ import annotations

import numpy as np
import pytest

from intarsia.backends.onnx.state import scalars
from intarsia.errors import BackendError
from intarsia.schedulers import table
from intarsia.schedulers.packing import Field, pack_matrices, pack_rows, record_size, row_fields, start_fields

BOTH_WAYS = table("DDIMInverseScheduler", 5, strength=0.8)


def test_fields_are_columns_of_the_table() -> None:
    fields = row_fields(BOTH_WAYS, last_scale=7.0)
    assert fields.shape == (len(BOTH_WAYS), len(Field))
    assert 0 < fields[:, Field.GUIDED].sum() < len(BOTH_WAYS)
    np.testing.assert_array_equal(fields[:, Field.GUIDED], BOTH_WAYS.guided)
    np.testing.assert_array_equal(fields[:, Field.KNOWN_IMAGE], BOTH_WAYS.known_image)
    np.testing.assert_array_equal(fields[:, Field.KNOWN_NOISE], BOTH_WAYS.known_noise)
    np.testing.assert_array_equal(fields[:, Field.INPUT_SCALE], BOTH_WAYS.input_scale)
    np.testing.assert_array_equal(fields[:, Field.NEXT_INPUT_SCALE], [*BOTH_WAYS.input_scale[1:], 7.0])
    assert not fields[:, Field.KNOWN_SAMPLE].any()


def test_a_known_region_that_is_not_kept_is_the_sample() -> None:
    fields = row_fields(BOTH_WAYS, last_scale=1.0, keeps_known=False)
    assert not fields[:, [Field.KNOWN_IMAGE, Field.KNOWN_NOISE]].any()
    assert fields[:, Field.KNOWN_SAMPLE].all()


def test_records_of_wider_lanes_hold_the_same_matrix() -> None:
    sampler = table("PNDMScheduler", 5)
    slots, rows = sampler.state_slots + 2, len(sampler) + 1
    records = pack_rows(sampler, slots, rows)
    assert records.shape == (rows, record_size(slots))
    assert not records[-1].any()

    matrices = records[:-1, : -len(Field)].reshape(-1, slots, slots + 2)
    used = [*range(sampler.state_slots), slots, slots + 1]
    np.testing.assert_array_equal(matrices[:, : sampler.state_slots][:, :, used], pack_matrices(sampler))
    assert np.count_nonzero(matrices) == np.count_nonzero(pack_matrices(sampler))


def test_tables_that_do_not_fit_are_refused() -> None:
    with pytest.raises(BackendError, match="a table of 5 rows and 1 slots does not fit lanes of 4 and 1"):
        pack_rows(table("DDIMScheduler", 5), 1, 4)


def test_the_step_graph_reads_the_fields_in_their_order() -> None:
    """After a row that only starts, with the guidance scale multiplied in."""
    found = scalars(BOTH_WAYS, 4.0, keeps_known=True)
    assert found.shape == (len(BOTH_WAYS) + 1, Field.INPUT_SCALE)
    np.testing.assert_array_equal(found[0], start_fields(BOTH_WAYS)[:-1].astype("f4"))
    np.testing.assert_array_equal(found[1:, Field.GUIDED], np.where(BOTH_WAYS.guided, 4.0, 0.0))
    np.testing.assert_array_equal(found[-1, Field.NEXT_INPUT_SCALE], 1)


def test_the_level_that_is_repainted_falls_to_zero_in_equal_steps() -> None:
    """A hard mask, 0 and 1, is on one side of it in every row."""
    levels = pack_rows(table("EulerDiscreteScheduler", 4), 1, 4)[:, Field.REPAINT_LEVEL - len(Field)]
    np.testing.assert_array_equal(levels, [0.75, 0.5, 0.25, 0])
    for steps in (1, 3, 150):
        every = pack_rows(table("DPMSolverSinglestepScheduler", steps), 4, 200)[
            :steps, Field.REPAINT_LEVEL - len(Field)
        ]
        assert ((every >= 0) & (every < 1)).all()


def test_the_step_graph_splits_as_many_fields() -> None:
    pytest.importorskip("onnx", reason="needs onnx: pip install 'intarsia[export]'")
    from intarsia.export.step import _NODES

    fields = {
        "guidance": Field.GUIDED,
        "image": Field.KNOWN_IMAGE,
        "known": Field.KNOWN_NOISE,
        "itself": Field.KNOWN_SAMPLE,
        "snr": Field.LANGEVIN_SNR,
        "scale": Field.NEXT_INPUT_SCALE,
        "level": Field.REPAINT_LEVEL,
    }
    split = next(outputs for kind, inputs, outputs, _ in _NODES if (kind, inputs) == ("Split", "numbers"))
    assert [fields[name] for name in split.split()] == list(range(Field.INPUT_SCALE))
