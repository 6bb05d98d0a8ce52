"""Folders of batches that ran under the product's former name."""

from __future__ import annotations

import pytest

from intarsia import batch
from tests.batch.conftest import image_hashes


def test_a_folder_of_the_former_name_goes_on_where_it_stopped(album, tmp_path):
    """Its results count, its claims let what was half done be replaced, and its unfinished files are removed."""
    manifest, out = album.manifest(album.rows(6)), tmp_path / "out"
    batch.run(manifest, out, album.options)
    before = image_hashes(out)
    results = (out / "results.jsonl").read_text().splitlines(keepends=True)
    (out / "results.jsonl").write_text("".join(results[:4]))  # killed before the last two were noted
    for path in out.glob(".intarsia-*"):
        path.rename(path.with_name(path.name.replace("intarsia", "inlay")))
    unfinished = out / f".inlay-{'0' * 16}.part"
    unfinished.write_bytes(b"half")

    stats = batch.run(manifest, out, album.options)
    assert stats.status == {"ok": 2}
    assert image_hashes(out) == before
    assert not unfinished.exists()
    assert batch.report(out)["ok"] == 6


@pytest.mark.parametrize("name", [".inlay-outputs/x.png", ".inlay-batch.lock", ".INLAY-x.png"])
def test_outputs_may_not_take_names_of_the_former_runner(album, tmp_path, name):
    stats = batch.run(album.manifest([album.row(0, output=name)]), tmp_path / "out", album.options)
    assert stats.errors == {"param": 1}
