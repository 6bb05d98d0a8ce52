"""Ids and outputs: no key of an address in any file or stream, none of the runner's own names, nothing outside."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from intarsia import batch
from intarsia.batch.manifest.ids import inline_id, public_id
from intarsia.batch.manifest.line import Line
from intarsia.batch.manifest.outputs import checked_outputs, default_output
from intarsia.batch.manifest.rows import Reader, Refused, Row
from intarsia.errors import OutputError, RequestError
from tests.batch.conftest import Album, image_hashes, lines

SECRETS = [
    {"init_image": "http://127.0.0.1:9/a.png?X-Amz-Signature=SECRET"},
    {"init_image": "http://127.0.0.1:9/a.png?X-Amz-Signature=SECRET-2"},
    {"init_image": "http://user:SECRET@127.0.0.1:9/a.png"},
    {"init_image": " HTTP://127.0.0.1:9/b.png#token=SECRET"},
    {"init_image": "http://127.0.0.1:9/" + "b" * 40 + ".png?" + "SECRET" * 300},
    {"init_image": "127.0.0.1:9/c.png?sig=SECRET"},
    {"init_image": "htp:/127.0.0.1:9/d.png?SECRET"},
    {"id": "https://example.org/mine.png?sig=SECRET", "init_image": "photos/1.png", "mask_image": "masks/1.png"},
    {"id": "https://user:SECRET@example.org", "stepz": 1},
    {"id": "https://example.org/out?sig=SECRET", "output": "https://example.org/x.png?sig=SECRET"},
    {"id": "https://example.org/twice?sig=SECRET", "steps": 1}, {"id": "https://example.org/twice?sig=SECRET"},
    {"id": "mask", "mask_image": "http://127.0.0.1:9/m.png?SECRET"},
    {"id": "width", "width": "https://example.org/?sig=SECRET"},
    {"id": "adapter", "ip_adapter": {"id": "https://example.org/?sig=SECRET", "image": "http://u:SECRET@127.0.0.1:9/x"}},
]  # fmt: skip


@pytest.mark.slow
def test_no_key_of_an_address_is_in_any_file_or_stream(album, tmp_path):
    rows = [{key: value for key, value in album.row(0).items() if key != "id"} | fields for fields in SECRETS]
    manifest = album.manifest([*rows, '"http://127.0.0.1:9/?SECRET"', album.row(0)])
    out = tmp_path / "out"
    said = [album.call("run", manifest, "--out", out, "--backend", "null")]
    assert said[0].returncode == 1, said[0].stderr
    said += [album.call("validate", manifest, *more) for more in ((), ("--no-decode", "--json"))]
    said += [album.call("report", out, *more) for more in ((), ("--json",))]
    for done in said:
        assert "SECRET" not in done.stdout + done.stderr
    made = lines(out)
    assert len({line["id"] for line in made}) == len(rows) + 2
    assert {line["line"]: line["status"] for line in made if line["status"] == "ok"} == {8: "ok", len(rows) + 2: "ok"}
    for path in out.rglob("*"):
        assert "SECRET" not in path.name
        assert path.is_dir() or b"SECRET" not in path.read_bytes(), path


def test_ids_of_addresses_are_unique_stable_and_short():
    pinned = "https://example.org/p/b.webp (8bc8f0d0afe0)"
    assert public_id("https://example.org/p/b.webp?key=1") == pinned
    assert public_id(pinned) == pinned
    several = [
        f"https://{login}example.org/p/b.webp{more}" for login in ("", "u:p@") for more in ("", "?1", "?2", "#1")
    ]
    assert len({public_id(text) for text in several}) == len(several)
    assert public_id(several[0]) == several[0]
    # a hash of a password could be tried out
    assert public_id("https://a:b@example.org/") == public_id("https://c:d@example.org/")
    content = "data:image/png;base64," + "A" * 5_000_000
    assert len(public_id(content)) < 40
    assert public_id(inline_id("x")) == inline_id("x")


def reader(album: Album, **changes: Any) -> Reader:
    return Reader(album.folder, album.with_options(**changes), {})


@pytest.mark.parametrize(
    ("fields", "output"),
    [
        ({"init_image": "https://example.org/p/b.webp?key=1"}, "b-8bc8f0d0afe0.png"),
        ({"init_image": "https://example.org/?key=1"}, "9dd4d5f1c6a4.png"),
        ({"init_image": "https://example.org/p/b.webp"}, "b.png"),
        ({"id": "http://[not-an-address/x.png"}, "x.png"),
        ({"id": "a.jfif"}, "a.png"),
        ({"id": "v1."}, "v1..png"),
        ({"id": "cat "}, "cat .png"),
    ],
)
def test_outputs_are_made_of_ids(album, fields, output):
    row = reader(album).row(Line(1, {"mask_image": "masks/0.png", **fields}))
    assert isinstance(row, Row), row
    if "key=1" in fields.get("init_image", "") and output[0] != "b":
        assert row.outputs == (default_output(public_id(fields["init_image"]), "png"),)
        assert len(row.outputs[0]) == len(output)
    else:
        assert row.outputs == (output,)


def test_images_in_the_row_itself_need_no_id(album, tmp_path):
    data = base64.b64encode((album.folder / "photos/0.png").read_bytes()).decode()
    rows = []
    for source in (data, f"data:image/png;base64,{data}"):
        rows.append({key: value for key, value in album.row(0).items() if key != "id"} | {"init_image": source})
    batch.run(album.manifest(rows), tmp_path / "out", album.options)
    made = lines(tmp_path / "out")
    assert [line["status"] for line in made] == ["ok", "ok"]
    assert all(line["id"].startswith("inline (") and len(line["id"]) < 40 for line in made)
    assert set(image_hashes(tmp_path / "out")) == {default_output(line["id"], "png") for line in made}
    assert data not in (tmp_path / "out/results.jsonl").read_text()


def test_results_of_an_earlier_version_belong_to_the_rows_of_now(album, tmp_path):
    """Those kept ids as they were written: their rows are the same, and reports show none of their keys."""
    old, out = "https://example.org/x.png?sig=SECRET", tmp_path / "out"
    rows = [album.row(0, id=old, output="x.png"), album.row(1)]
    batch.run(album.manifest(rows), out, album.options)
    for name in ("results.jsonl", ".intarsia-outputs"):
        path = out / name
        path.write_text(path.read_text().replace(public_id(old), old))
    assert "SECRET" in (out / "results.jsonl").read_text()
    assert "SECRET" not in json.dumps(batch.report(out))
    again = batch.run(album.manifest(rows), out, album.options)
    assert (again.before, again.status) == (2, {})
    (out / "results.jsonl").unlink()  # what it claimed to write is its own, too
    assert batch.run(album.manifest(rows), out, album.options).status == {"ok": 2}
    batch.merge(out)
    assert "SECRET" not in (out / "results.jsonl").read_text()


RESERVED = [
    "results-1-of-2.jsonl/x.png", "results.jsonl/x", "RESULTS-ray-a.JSONL/x.png", "deep/results.jsonl/x.png",
    ".intarsia-outputs-x/p.png", ".Intarsia-batch.lock/x.png", ".intarsia-report.json.part/x.png", ".intarsia-x.png",
    "a/.intarsia-x",
    "report.json/x.png", "Report-1-of-2.json/y.png", "reſults.jsonl/x.png",
]  # fmt: skip


def test_no_row_takes_a_name_of_the_runners_own(album, tmp_path):
    rows = [album.row(number, output=output) for number, output in enumerate(RESERVED)]
    rows += [album.row(number + 50, id=output) for number, output in enumerate(RESERVED)]
    count = len(rows)
    rows += [album.row(98, output="results.png"), album.row(99, output="my-report.json/results.jsonl.png")]
    manifest, out = album.manifest(rows), tmp_path / "out"
    found = batch.validate(manifest, album.options, decode=False)
    assert [each.number for each in found.problems] == list(range(1, count + 1))
    assert all("batch runner's own" in each.text for each in found.problems)
    assert batch.run(manifest, out, album.options).status == {"error": count, "ok": 2}
    assert batch.run(manifest, out, album.options).before == 2
    assert batch.report(out)["errors"] == {"param": count}


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("A.PNG", ("A.PNG",)), ("photo .Png", ("photo .Png",)), (" a/ b.jpg", (" a/ b.jpg",)),
        ("a.b.c.webp", ("a.b.c.webp",)), ("a..png", ("a..png",)), ("./a//b", ("a/b.png",)),
    ],
)  # fmt: skip
def test_an_output_is_called_as_it_is_written(output, expected):
    assert checked_outputs(output, 1, "png") == expected
    stem, _, suffix = checked_outputs(output, 1, "png")[0].rpartition(".")
    assert checked_outputs(output, 2, "png") == (f"{stem}-1.{suffix}", f"{stem}-2.{suffix}")


@pytest.mark.parametrize("output", ["a.", "a.png ", "a.png.", "v1.5", "a.PNGG"])
def test_an_extension_that_is_none_of_ours_is_refused(output):
    with pytest.raises(OutputError, match="the extension must be one of"):
        checked_outputs(output, 1, "png")


@pytest.mark.parametrize("output", ["a/../b.png", "/a.png", "a/", "", "..", "é" * 126 + ".png"])
def test_outputs_that_are_no_names_inside_the_folder(output):
    with pytest.raises(RequestError, match="output must be"):
        checked_outputs(output, 1, "png")


def test_outputs_that_a_file_system_may_take_for_one_are_refused(album):
    names = [("Straße.png", "STRASSE.png"), ("caf\u00e9.png", "cafe\u0301.PNG"), ("A/x.png", "a/X.png")]
    rows = [album.row(number, output=name) for number, name in enumerate(sum(names, ()))]
    found = batch.validate(album.manifest([*rows, album.row(90)]), album.options, decode=False)
    assert [each.number for each in found.problems] == [1, 2, 3, 4, 5, 6]


def test_images_whose_names_begin_or_end_with_a_blank(album, tmp_path):
    for name in (" 0.png", "0.png "):
        (album.folder / "photos/0.png").rename(album.folder / f"photos/{name}")
        row = album.row(0, init_image=f"photos/{name}")
        assert batch.validate(album.manifest([row]), album.options).problems == ()
        assert batch.run(album.manifest([row]), tmp_path / f"out{name}", album.options).status == {"ok": 1}
        (album.folder / f"photos/{name}").rename(album.folder / "photos/0.png")
    row = album.row(0, init_image=" photos/0.png ")  # blanks that mean nothing
    assert batch.validate(album.manifest([row]), album.options).problems == ()


def test_nothing_is_made_behind_a_link_out_of_the_folder(album, tmp_path):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    for folder in (out / "inside", elsewhere):
        folder.mkdir(parents=True)
    os.symlink(elsewhere, out / "link")
    os.symlink(tmp_path / "nowhere", out / "dangling")
    os.symlink("round", out / "round")
    os.symlink("inside", out / "alias")
    (out / "file").write_text("")
    places = ["link/x", "link/deep/er/x", "dangling/deep/x", "round/deep/x", "file/deep/x"]
    rows = [album.row(number, output=output) for number, output in enumerate([*places, "alias/deep/er/x", "new/x"])]
    stats = batch.run(album.manifest(rows), out, album.options)
    assert (stats.status["ok"], stats.errors) == (2, {"io": len(places)})
    texts = {line["line"]: line.get("text", "") for line in lines(out)}
    assert ["leaves the output folder by a link" in texts[number] for number in (1, 2, 3)] == [True] * 3
    assert all("Errno" not in text and "Traceback" not in text for text in texts.values())
    assert list(elsewhere.iterdir()) == []
    assert not (tmp_path / "nowhere").exists()
    assert set(image_hashes(out)) >= {"inside/deep/er/x.png", "new/x.png"}


def test_files_of_the_system_are_not_read(album, monkeypatch):
    """/proc/kmsg is a regular file of no bytes, and a read of it waits for ever."""
    import builtins

    empty = album.folder / "photos/empty.dat"
    empty.write_bytes(b"")

    def noted(path: Path, *arguments: Any, **options: Any) -> Any:
        opened.append(str(path))
        return real(path, *arguments, **options)

    real, opened = builtins.open, []
    monkeypatch.setattr(builtins, "open", noted)
    row = album.row(0, init_image=str(empty), width=None, height=None)
    from intarsia.batch.running.row_supply import _size
    from intarsia.engine.request import InpaintRequest
    from intarsia.images.sources import read_source

    assert read_source("init_image", str(empty)).content == b""
    request = reader(album).row(Line(1, row))
    assert not isinstance(request, Refused)
    assert _size(InpaintRequest.parse(request.fields), 512) is None
    assert str(empty) not in opened


def test_a_link_that_comes_while_the_folder_is_made_is_noticed(album, tmp_path, monkeypatch):
    from intarsia.batch.running.row_runner import RowRunner

    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    runner = RowRunner(album.options, out, "auto")
    monkeypatch.setattr(Path, "mkdir", lambda folder, **options: os.symlink(elsewhere, folder))
    with pytest.raises(OutputError, match="leaves the output folder by a link"):
        runner._make_folder(out / "new", "new/x.png")
    runner.close()


def test_a_file_that_grows_is_read_up_to_the_limit(tmp_path, monkeypatch):
    from intarsia.images import sources

    (tmp_path / "log").write_bytes(b"12345")
    size = os.stat(tmp_path / "log")
    monkeypatch.setattr(sources, "MAX_BYTES", 6)
    (tmp_path / "log").write_bytes(b"123456789")
    monkeypatch.setattr(sources.os, "stat", lambda path: size)
    assert sources.read_source("init_image", str(tmp_path / "log")).content == b"123456"


@pytest.mark.timeout(30)
def test_a_pipe_is_never_opened(album):
    from intarsia.batch.running.row_supply import _size
    from intarsia.engine.request import InpaintRequest
    from intarsia.errors import SourceError
    from intarsia.images.sources import read_source

    pipe = album.folder / "photos/pipe.png"
    os.mkfifo(pipe)
    assert _size(InpaintRequest(init_image=str(pipe)), 512) is None
    with pytest.raises(SourceError, match="is not a regular file"):
        read_source("init_image", str(pipe))
    pair = batch.Pair(album.folder / "photos", album.folder / "masks/0.png")
    assert any("no regular file (1): 'pipe.png'" in note for note in batch.validate(pair, album.options).notes)
