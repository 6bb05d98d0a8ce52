"""Rows gathered on the device: exact, in place, and never beyond a table."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")

from intarsia.errors import BackendError
from intarsia.kernels.pick import pick_rows


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.uint8])
@pytest.mark.parametrize(("shared", "halves", "width"), [(1, 1, 7), (1, 2, 1500), (2, 2, 1029)])
@pytest.mark.parametrize("fused", [True, False])
def test_every_lane_gets_its_row(guard, device, dtype, shared, halves, width, fused):
    where = device if fused else "cpu"
    table = (torch.arange(4 * 6 * shared * width) % 251).view(4, 6, shared, width).to(dtype).to(where)
    cursor = torch.tensor([3, 0, 5, -1], dtype=torch.int32, device=where)
    out = guard.empty((4 * halves, width), dtype, where)
    row = guard.empty((4,), torch.int32, where)
    pick_rows(guard.holding(table), cursor, out, row, fused=fused)
    for lane, chosen in enumerate([3, 0, 5, 0]):  # an idle lane reads its own table, whatever is there
        for half in range(halves):
            assert torch.equal(out[lane * halves + half], table[lane, chosen, half % shared])
    assert row.tolist() == cursor.tolist()


@pytest.mark.parametrize("fused", [True, False])
def test_a_cursor_beyond_the_table_stays_inside(guard, device, fused):
    where = device if fused else "cpu"
    table = torch.arange(2 * 3 * 5, dtype=torch.float32, device=where).view(2, 3, 1, 5)
    out = guard.empty((2, 5), torch.float32, where)
    pick_rows(table, torch.tensor([7, -5], dtype=torch.int32, device=where), out, fused=fused)
    assert torch.equal(out, torch.stack([table[0, 2, 0], table[1, 0, 0]]))


def test_other_shapes_are_refused(device):
    table, cursor = torch.zeros(2, 3, 1, 5, device=device), torch.zeros(2, dtype=torch.int32, device=device)
    with pytest.raises(BackendError, match="pick: out must be"):
        pick_rows(table, cursor, torch.zeros(2, 4, device=device))
    with pytest.raises(BackendError, match="pick: out must be"):
        pick_rows(table, cursor, torch.zeros(3, 5, device=device))
    with pytest.raises(BackendError, match="pick: table must be packed"):
        pick_rows(table.expand(2, 3, 2, 5), cursor, torch.zeros(4, 5, device=device))
    with pytest.raises(BackendError, match=r"pick: cursor must be torch\.int32"):
        pick_rows(table, cursor.long(), torch.zeros(2, 5, device=device))
