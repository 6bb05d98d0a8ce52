"""What a run must never do: replace somebody's images, hang, or end because of one row."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from intarsia import batch
from intarsia.batch import Findings, Options, RunStats, runner
from intarsia.batch.ledger.claims import Claims
from intarsia.batch.ledger.lock import locked
from intarsia.batch.ledger.records import Record
from intarsia.batch.ledger.replacing import replacing
from intarsia.batch.ledger.report import write_report
from intarsia.batch.ledger.results import History
from intarsia.engine.request import InpaintRequest
from intarsia.errors import IntarsiaError, OutputError, RequestError
from intarsia.registry.registry import Registry
from tests.batch.conftest import Album, image_hashes, lines


def bytes_below(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*.png"))}


def problems(findings: Findings) -> list[tuple[int, str, str]]:
    return [(each.number, each.id, each.error) for each in findings.problems]


@pytest.fixture
def quick(album: Album) -> Options:
    """Options whose defaults make every row a quick one."""
    (album.folder / "quick.toml").write_text("steps = 2\nwidth = 64\nheight = 64\n")
    return album.with_options(defaults=str(album.folder / "quick.toml"))


def test_a_pair_of_folders_does_not_replace_its_own_images(album, quick):
    pair, before = batch.Pair(album.folder / "photos", album.folder / "masks"), bytes_below(album.folder)
    os.symlink(album.folder / "photos", album.folder / "same")
    for out in ("photos", "masks", "same"):
        for call in (lambda out: batch.run(pair, out, quick), lambda out: batch.validate(pair, quick, out=out)):
            with pytest.raises(RequestError, match=r"(photos|masks): the next run would take outputs for images"):
                call(album.folder / out)
        assert bytes_below(album.folder) == before


@pytest.mark.every(3)
@pytest.mark.parametrize("place", ["photos/out", "masks/out", "out"])
def test_outputs_below_the_images_are_none_of_them(album, quick, place):
    """The natural place for them; a second run finds everything done, and nothing new."""
    for number in range(6):
        path = album.folder / f"photos/{number}.png"
        with Image.open(path) as image:
            image.convert("RGB").save(path.with_suffix(".jpg"))
        path.unlink()
    (album.folder / "masks").rename(album.folder / "photos/masks")
    masks = album.folder / "photos/masks"
    pair, out = batch.Pair(album.folder / "photos", masks), album.folder / place.replace("masks", "photos/masks")
    stats = batch.run(pair, out, quick)
    assert (stats.rows, stats.status["ok"]) == (6, 6)
    again = batch.run(pair, out, quick)
    assert (again.rows, again.before, sum(again.status.values())) == (6, 6, 0)
    assert batch.validate(pair, quick, out=out).rows == 6


@pytest.mark.every(3)
@pytest.mark.parametrize(
    ("reading", "defaults"),
    [
        ({"init_image": "photos/5.png"}, ""),
        ({"mask_image": "photos/5.png"}, ""),
        ({"init_image": "links/5.png"}, ""),
        ({"init_image": "photos/link.png"}, ""),
        ({"ip_adapter": {"id": "look", "image": "photos/5.png"}}, ""),
        ({"mask_image": None}, 'mask_image = "photos/5.png"'),
    ],
)
def test_no_row_replaces_what_another_reads(album, tmp_path, reading, defaults):
    os.symlink(album.folder / "photos", album.folder / "links")
    os.symlink("5.png", album.folder / "photos/link.png")
    os.symlink(album.folder, tmp_path / "other-name")
    (album.folder / "defaults.toml").write_text(defaults)
    options = album.with_options(defaults=str(album.folder / "defaults.toml"))
    rows = [album.row(0, id="reader", **reading), album.row(1, id="writer", output="photos/5.png"), album.row(2)]
    manifest, before = album.manifest(rows), bytes_below(album.folder)
    out = tmp_path / "other-name"
    found = batch.validate(manifest, options, decode=False, out=out)
    assert (2, "writer", "param") in problems(found)
    batch.run(manifest, out, options)
    made = {line["id"]: line for line in lines(album.folder)}
    assert (made["writer"]["status"], made["writer"]["error"]) == ("error", "param")
    assert "of line 1" in made["writer"]["text"]
    assert "the output 'photos/5.png' would replace" in made["writer"]["text"]
    assert made["row-2"]["status"] == "ok"
    assert bytes_below(album.folder).items() >= before.items()


def test_an_image_of_somebody_else_stays(album, tmp_path):
    """Also where no row reads it; and two manifests in one folder do not take each other's outputs."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "row-0.png").write_bytes(b"a drawing by hand")
    manifest = album.manifest([album.row(0), album.row(1)])
    stats = batch.run(manifest, out, album.options)
    assert (stats.status["ok"], stats.errors) == (1, {"io": 1})
    assert "row-0.png is already there, and no earlier run wrote it" in lines(out)[0]["text"]
    assert (out / "row-0.png").read_bytes() == b"a drawing by hand"
    before = (out / "row-1.png").read_bytes()
    other = album.manifest([album.row(2, id="other", output="row-1.png")], "other.jsonl")
    assert batch.run(other, out, album.options).errors == {"io": 1}
    assert (out / "row-1.png").read_bytes() == before
    # what is the row's own is replaced, and a folder without notes is known by its results
    for path in out.glob(".intarsia-outputs*"):
        path.unlink()
    changed = album.manifest([album.row(1, prompt="something else")], "changed.jsonl")
    assert batch.run(changed, out, album.options).status == {"ok": 1}
    assert (out / "row-1.png").read_bytes() != before


def test_an_image_that_comes_while_the_row_is_run_stays(album, tmp_path):
    """The last guard, in the worker: the file was not there when the row was let through."""
    from intarsia.batch.manifest.line import Line
    from intarsia.batch.manifest.rows import Reader
    from intarsia.batch.running.jobs import Job
    from intarsia.batch.running.row_runner import RowRunner

    row = Reader(album.folder, album.options, {}).row(Line(1, album.row(0)))
    (tmp_path / "row-0.png").write_bytes(b"a drawing by hand")
    runner = RowRunner(album.options, tmp_path, "auto")
    (record,) = runner.run([Job.of(row)])
    assert (record.status, record.error) == ("error", "io")
    assert (tmp_path / "row-0.png").read_bytes() == b"a drawing by hand"
    (record,) = runner.run([Job.of(row, own=("row-0.png",))])
    runner.close()
    assert record.status == "ok"
    assert (tmp_path / "row-0.png").read_bytes().startswith(b"\x89PNG")


def test_claims_outlive_torn_lines(tmp_path):
    with Claims(tmp_path, History(), (1, 1)) as claims:
        assert claims.claim("a", ("a.png",)) == ()
    (tmp_path / "a.png").write_bytes(b"x")
    with (tmp_path / ".intarsia-outputs").open("ab") as file:
        file.write(b"\n[5]\n" + b"[" * 200_000 + b'\n["b", "b.p')
    with Claims(tmp_path, History(), (2, 3)) as claims:
        assert claims.claim("c", ("c.png",)) == ()
        assert claims.claim("a", ("a.png", "a-2.png")) == ("a.png",)
        with pytest.raises(OutputError, match="already there"):
            claims.claim("b", ("a.png",))
    with Claims(tmp_path, History(), (1, 1)) as claims:
        assert claims.claim("c", ("c.png",)) == ("c.png",)


def test_claims_outlive_results_without_outputs(tmp_path):
    history = History(done={"a": Record(id="a", status="ok")})
    with Claims(tmp_path, history, (1, 1)) as claims:
        assert claims.claim("a", ("a.png",)) == ()


def test_the_manifest_is_not_taken_for_results(album):
    manifest = album.manifest(album.rows(1), "results.jsonl")
    before = manifest.read_bytes()
    for call in (batch.run, batch.retry):
        with pytest.raises(RequestError, match="results would be written into the manifest"):
            call(manifest, album.folder, album.options)
    with pytest.raises(RequestError, match="results would be written into the manifest"):
        batch.validate(manifest, album.options, out=album.folder)
    assert manifest.read_bytes() == before


def damaged_headers(folder: Path) -> list[str]:
    """Files whose headers break decoders in ways of their own: none of these errors is an OSError or ValueError."""
    names = []
    if "AVIF" in Image.registered_extensions().values():
        Image.new("RGB", (32, 32), 9).save(folder / "cut.avif")
        whole = (folder / "cut.avif").read_bytes()
        (folder / "cut.avif").write_bytes(whole[: len(whole) // 2])
        names.append("cut.avif")
    # a DirectDraw Surface of a pixel format that Pillow has not implemented
    head = b"DDS " + (124).to_bytes(4, "little") + b"\0" * 68 + (32).to_bytes(4, "little") + b"\0" * 100
    (folder / "odd.png").write_bytes(head)
    return [*names, "odd.png"]


@pytest.mark.slow
def test_a_damaged_header_is_its_rows_error_alone(album, tmp_path):
    names = damaged_headers(album.folder / "photos")
    # without width and height the header is looked at, to find what can be run together
    rows = [album.row(0)]
    for name in names:
        rows.append(album.row(0, id=name, init_image=f"photos/{name}", width=None, height=None))
    manifest = album.manifest([*rows, album.row(1)])
    stats = batch.run(manifest, tmp_path / "out", album.options)
    assert (stats.status["ok"], stats.errors) == (2, {"decode": len(names)})
    assert {each.id: each.error for each in batch.validate(manifest, album.options).problems} == dict.fromkeys(
        names, "decode"
    )


@pytest.mark.every(3)
@pytest.mark.parametrize("error", [RuntimeError("two\nlines"), NotImplementedError(), AttributeError("x")])
def test_whatever_preparing_a_row_raises_is_its_own(album, tmp_path, monkeypatch, error):
    from intarsia.batch.running import row_supply as supply

    real = supply._bucket

    def bucket(request: InpaintRequest, registry: Registry) -> Any:
        if request.prompt == "thing 1":
            raise error
        return real(request, registry)

    monkeypatch.setattr(supply, "_bucket", bucket)
    stats = batch.run(album.manifest(album.rows(3)), tmp_path / "out", album.options)
    assert (stats.status["ok"], stats.errors) == (2, {"internal": 1})
    (bad,) = (line for line in lines(tmp_path / "out") if line["status"] == "error")
    assert bad["text"]
    assert "\n" not in bad["text"]


@pytest.mark.every(2)
@pytest.mark.parametrize(
    "head", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0\xff\xff", b"GIF89a", b"II*\0\xff\xff\xff\xff"]
)
def test_a_header_that_ends_early_does_not_end_the_run(album, tmp_path, head):
    (album.folder / "photos/cut").write_bytes(head)
    rows = [album.row(number, width=None, height=None) for number in range(2)]
    manifest = album.manifest([*rows, album.row(2, id="cut", init_image="photos/cut", width=None, height=None)])
    stats = batch.run(manifest, tmp_path / "out", album.options)
    assert (stats.status["ok"], stats.errors) == (2, {"decode": 1})


def test_a_pipe_is_no_image(album, tmp_path):
    os.mkfifo(album.folder / "photos/pipe.png")
    fields = {"init_image": "photos/pipe.png", "width": None, "height": None}
    manifest = album.manifest([album.row(0, id="pipe", **fields), album.row(1)])
    done = album.call("run", manifest, "--out", tmp_path / "out", "--backend", "null")
    assert done.returncode == 1, done.stderr
    made = {line["id"]: line for line in lines(tmp_path / "out")}
    assert (made["pipe"]["error"], made["row-1"]["status"]) == ("decode", "ok")
    assert "is not a regular file" in made["pipe"]["text"]


def test_a_file_system_that_hangs_does_not_keep_a_run_from_stopping(album, tmp_path, monkeypatch):
    import threading

    from intarsia.batch.running import row_supply as supply

    hanging, released = threading.Event(), threading.Event()

    def hanging_bucket(request: InpaintRequest, registry: Registry) -> None:
        hanging.set()
        released.wait(60)

    monkeypatch.setattr(supply, "_bucket", hanging_bucket)
    monkeypatch.setattr(supply, "_JOIN_SECONDS", 0.1)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's is to ignore it
    thread = threading.Timer(0, lambda: hanging.wait(60) and os.kill(os.getpid(), signal.SIGINT))
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            batch.run(album.manifest(album.rows(3)), tmp_path / "out", album.options)
        assert not released.is_set()
    finally:
        released.set()
        thread.join()
        signal.signal(signal.SIGINT, handler)
    assert [line["status"] for line in lines(tmp_path / "out")] == ["skipped"] * 3


@pytest.mark.slow
def test_parquet_cells_of_other_types(album, tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow: pip install 'intarsia[batch]'")
    from pyarrow import parquet

    image, mask = ((album.folder / f"{sort}/0.png").read_bytes() for sort in ("photos", "masks"))
    common = {"init_image": image, "mask_image": mask, "width": 64, "height": 64, "steps": 2}
    rows = [
        {"id": "bytes", "prompt": "a", "guidance_scale": Decimal("7.5"), **common},
        {"id": "other", "prompt": "b", "guidance_scale": Decimal("8"), **common},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), album.folder / "m.parquet")
    assert batch.validate(album.folder / "m.parquet", album.options).problems == ()
    plain = album.with_options(metadata=False)  # which has the paths of inputs that are files
    assert batch.run(album.folder / "m.parquet", tmp_path / "a", plain).status == {"ok": 2}
    row = album.row(0, id="bytes", prompt="a", guidance_scale=7.5, steps=2)
    batch.run(album.manifest([{key: row[key] for key in rows[0]}]), tmp_path / "b", plain)
    assert image_hashes(tmp_path / "a")["bytes.png"] == image_hashes(tmp_path / "b")["bytes.png"]

    rows = [{**common, "id": "dated", "prompt": date(2026, 1, 2), "vae": None, "seed": None}]
    rows += [{**rows[0], "id": "raw", "vae": b"\xff"}, {**rows[0], "id": "when", "seed": date(2026, 1, 2)}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), album.folder / "n.parquet")
    stats = batch.run(album.folder / "n.parquet", tmp_path / "c", album.options)
    made = {line["id"]: line for line in lines(tmp_path / "c")}
    assert (stats.status["ok"], stats.errors) == (1, {"param": 2})
    assert made["raw"]["text"] == "vae holds a value of type bytes, which no request takes"
    assert made["when"]["text"] == "seed holds a value of type date, which no request takes"
    found = batch.validate(album.folder / "n.parquet", album.options)
    assert problems(found) == [(2, "raw", "param"), (3, "when", "param")]


def test_bytes_of_small_images_of_any_kind_are_images(tmp_path):
    """Base64 of few bytes without a known beginning would be taken for a path."""
    from intarsia.batch.manifest.cells import plain
    from intarsia.images.sources import read_source

    data = b"P6 1 1 255\n\x01\x02\x03"
    assert read_source("init_image", plain("init_image", data)).content == data
    adapter = plain("ip_adapter", {"id": "look", "image": data, "scale": None})
    assert adapter == {"id": "look", "image": "data:;base64," + base64.b64encode(data).decode()}


SURROGATES = [
    {"prompt": "\ud800"}, {"negative_prompt": "a\udfffb"}, {"model": "\ud800"}, {"vae": "\ud800"},
    {"init_image": "photos/\ud800.png"}, {"mask_image": "\ud800"}, {"output": "\ud800.png"}, {"id": "\ud800"},
    {"loras": [{"id": "\ud800"}]}, {"ip_adapter": {"id": "\ud800", "image": "photos/0.png"}}, {"scheduler": "\ud800"},
    {"ip_adapter": {"id": "x", "image": "photos/\ud800.png"}},
]  # fmt: skip


@pytest.mark.slow
def test_lone_surrogates_are_refused_by_name(album, tmp_path):
    rows = [album.row(0), *(album.row(number + 1, **fields) for number, fields in enumerate(SURROGATES)), album.row(99)]
    manifest = album.manifest(rows)
    stats = batch.run(manifest, tmp_path / "out", album.options)
    assert (stats.status["ok"], stats.errors) == (2, {"param": len(SURROGATES)})
    made = {line["line"]: line for line in lines(tmp_path / "out")}
    for number, fields in enumerate(SURROGATES):
        assert made[number + 2]["text"].startswith(f"{next(iter(fields))} must be ")
    for decode in (False, True):
        found = batch.validate(manifest, album.options, decode=decode)
        assert [each.number for each in found.problems] == list(range(2, len(SURROGATES) + 2))
    done = album.call("validate", manifest)
    assert (done.returncode, done.stderr) == (2, "")


def test_a_name_of_a_file_that_is_not_utf_8(album, tmp_path, quick):
    name = os.fsdecode(b"caf\xe9.png")
    (album.folder / "photos/0.png").rename(album.folder / "photos" / name)
    pair = batch.Pair(album.folder / "photos", album.folder / "masks")
    stats = batch.run(pair, tmp_path / "out", quick)
    assert (stats.status["ok"], stats.errors) == (5, {"mask": 1})
    done = album.call("validate", "--images", "photos", "--masks", "masks", "--defaults", "quick.toml")
    assert (done.returncode, done.stderr) == (2, "")


def broken_and_mended(album: Album) -> tuple[list[Any], list[Any]]:
    """A manifest with rows that have no name of their own, and the same one once it is in order."""
    rows = [
        album.row(0),
        '{"id": "b", ',
        *(album.row(each + 2, id="c") for each in range(2)),
        {"stepz": 1},
        album.row(5),
    ]
    mended = [
        album.row(0), album.row(1, id="b"), album.row(2, id="c"), album.row(3, id="d"), album.row(4), album.row(5),
    ]  # fmt: skip
    return rows, mended


@pytest.mark.slow
def test_rows_without_a_name_are_forgotten_once_the_manifest_is_mended(album, tmp_path):
    rows, mended = broken_and_mended(album)
    out = tmp_path / "out"
    assert batch.run(album.manifest(rows), out, album.options).failed == 4
    named = {record["id"] for record in batch.report(out)["failed"]}
    assert named == {"line 2", "c (line 3)", "c (line 4)", "line 5"}
    rows[1] = mended[1]
    batch.run(album.manifest(rows), out, album.options)
    assert {record["id"] for record in batch.report(out)["failed"]} == named - {"line 2"}
    batch.run(album.manifest(mended), out, album.options)
    report = batch.report(out)
    assert (report["rows"], report["ok"], report["failed"]) == (6, 6, [])
    assert batch.merge(out) == 6
    assert batch.report(out)["rows"] == 6
    assert batch.run(album.manifest(mended), out, album.options).before == 6


@pytest.mark.slow
def test_retry_runs_what_rows_without_a_name_have_become(album, tmp_path):
    rows, mended = broken_and_mended(album)
    out = tmp_path / "out"
    batch.run(album.manifest(rows), out, album.options)
    manifest = album.manifest(mended)
    only = batch.retry(manifest, out, album.options, classes=["io"])
    assert only.rows == 0
    assert len(batch.report(out)["failed"]) == 4
    stats = batch.retry(manifest, out, album.options)
    assert (stats.rows, stats.status) == (4, {"ok": 4})
    report = batch.report(out)
    assert (report["rows"], report["ok"], report["failed"]) == (6, 6, [])
    assert batch.retry(manifest, out, album.options).rows == 0


@pytest.mark.slow
def test_stale_rows_are_forgotten_in_shards_too_whatever_file_they_are_in(album, tmp_path):
    rows, mended = broken_and_mended(album)
    out = tmp_path / "out"
    batch.run(album.manifest(rows), out, album.options)
    for part in (1, 2):
        batch.run(album.manifest(mended), out, album.with_options(shard=(part, 2)))
    assert (batch.report(out)["rows"], batch.report(out)["failed"]) == (6, [])
    assert batch.merge(out) == 6
    assert batch.report(out)["ok"] == 6


def test_shards_are_disjoint_and_complete_where_ids_collide(album, tmp_path):
    rows = [album.row(number, id=f"x{number // 3}") for number in range(18)]
    rows += ["{", "[", *album.rows(6)]
    manifest, seen = album.manifest(rows), []
    for part in (1, 2, 3, 4):
        stats = batch.run(manifest, tmp_path / "out", album.with_options(shard=(part, 4)))
        assert stats.rows == sum(stats.status.values())
        path = tmp_path / f"out/results-{part}-of-4.jsonl"
        seen += [line["line"] for line in lines(tmp_path / "out", path.name)]
    assert sorted(seen) == list(range(1, len(rows) + 1))


def test_a_report_that_cannot_be_written_neither_hides_the_error_nor_leaves_a_part(album, tmp_path, monkeypatch):
    out = tmp_path / "out"
    (out / "report.json").mkdir(parents=True)
    manifest = album.manifest([*album.rows(2), "{"])
    with pytest.raises(OutputError, match=r"report.json cannot be written: Is a directory"):
        batch.run(manifest, out, album.options)
    assert not list(out.glob(".intarsia-*.part"))

    def carry_out(task: object, stats: RunStats, watch: object) -> None:
        stats.status["ok"] += 1
        raise OutputError("the first error")

    monkeypatch.setattr(runner, "_carry_out", carry_out)
    with pytest.raises(OutputError, match="the first error"):
        batch.run(manifest, out, album.options)
    assert not list(out.glob(".intarsia-*.part"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full, which stands in for a full disk")
def test_on_a_full_disk_a_file_stays_as_it_was(tmp_path):
    target, part = tmp_path / "report.json", tmp_path / ".intarsia-report.json.part"
    target.write_text("before")
    part.symlink_to("/dev/full")
    with pytest.raises(OutputError, match=r"report\.json cannot be written: No space left on device"):
        write_report(tmp_path, (1, 1), {"rows": 1})
    assert (target.read_text(), list(tmp_path.iterdir())) == ("before", [target])


def test_a_file_is_replaced_whole_or_stays_as_it_was(tmp_path):
    target = tmp_path / "kept"
    target.write_text("before")

    def interrupted() -> None:
        with replacing(target) as file:
            file.write("half of")
            file.flush()
            assert target.read_text() == "before"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (target.read_text(), list(tmp_path.iterdir())) == ("before", [target])
    with replacing(target) as file:
        file.write("after \ud83d")
    assert (target.read_text(), list(tmp_path.iterdir())) == ("after \\ud83d", [target])


def test_an_empty_folder_of_images_is_named_in_words(album, tmp_path):
    (album.folder / "none").mkdir()
    pair = batch.Pair(album.folder / "none", album.folder / "masks")
    for call in (lambda: batch.validate(pair, album.options), lambda: batch.run(pair, tmp_path / "out", album.options)):
        with pytest.raises(RequestError) as caught:
            call()
        assert str(caught.value) == f"{album.folder / 'none'}: there are no images in this folder"


def test_rows_that_collide_keep_their_ids_in_findings(album):
    rows = [album.row(0, id="a", output="x.png"), album.row(1, id="b", output="x.png"), album.row(2, id="c")]
    found = batch.validate(album.manifest(rows), album.options)
    assert problems(found) == [(1, "a", "param"), (2, "b", "param")]


def test_retry_where_nothing_was_run_is_refused(album, tmp_path):
    manifest = album.manifest(album.rows(1))
    with pytest.raises(OutputError, match="holds no results of a batch run"):
        batch.retry(manifest, tmp_path / "missing", album.options)
    assert not (tmp_path / "missing").exists()


def test_names_that_are_too_long_are_ordinary_errors(album, tmp_path):
    long, manifest = "n" * 300, album.manifest(album.rows(1))
    pair = batch.Pair(album.folder / long, album.folder / "masks")
    options = album.options
    calls = [
        lambda: batch.run(album.folder / f"{long}.jsonl", tmp_path / "out", options),
        lambda: batch.validate(album.folder / f"{long}.jsonl", options),
        lambda: batch.run(manifest, tmp_path / long, options),
        lambda: batch.retry(manifest, tmp_path / long, options),
        lambda: batch.report(tmp_path / long),
        lambda: batch.merge(tmp_path / long),
        lambda: batch.validate(manifest, options, out=tmp_path / long),
        lambda: batch.run(pair, tmp_path / "out", options),
        lambda: batch.run(batch.Pair(album.folder / "photos", album.folder / long), tmp_path / "out", options),
        lambda: batch.run(manifest, tmp_path / "out", album.with_options(defaults=long)),
    ]
    for number, call in enumerate(calls):
        if number == 6:
            assert call().problems == ()
            continue
        with pytest.raises(IntarsiaError) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_an_interrupt_at_the_start_names_every_row(album, tmp_path, monkeypatch):
    """The folder is locked, nothing has been begun: also while it is swept, and while results are read."""
    from intarsia.batch.running import local

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    manifest = album.manifest([*album.rows(3), "{"])
    for number, (module, name) in enumerate([(runner, "_carry_out"), (local, "Claims"), (local, "DoneFilter")]):
        out = tmp_path / f"out-{number}"
        with monkeypatch.context() as patch:
            patch.setattr(module, name, interrupted)
            with pytest.raises(KeyboardInterrupt):
                batch.run(manifest, out, album.options)
        assert [(line["id"], line["status"]) for line in lines(out)] == [
            ("row-0", "skipped"), ("row-1", "skipped"), ("row-2", "skipped"), ("line 4", "skipped"),
        ]  # fmt: skip
        assert all(line["run"] > 0 for line in lines(out))
        with locked(out):
            pass
        assert batch.run(manifest, out, album.options).status == {"ok": 3, "error": 1}


def test_a_worker_whose_parent_says_nothing_goes_quietly():
    for said in ("", '{"options": '):
        command = [sys.executable, "-m", "intarsia.batch.running.worker"]
        done = subprocess.run(command, input=said, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stdout, done.stderr) == (70, "", "")


@pytest.mark.slow
def test_an_interrupt_while_workers_start(album, tmp_path):
    manifest, out = album.manifest(album.rows(5)), tmp_path / "out"
    command, environment = album.command("run", manifest, "--out", out, "--backend", "null", faults=0.5)
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not (out / "results.jsonl").exists() and process.poll() is None:
        time.sleep(0.002)
    process.terminate()
    _, complaint = process.communicate(timeout=120)
    assert process.returncode == 130, complaint
    assert len(complaint.splitlines()) == 1
    made = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert {line["id"] for line in made} == {row["id"] for row in album.rows(5)}
    assert {line["status"] for line in made} <= {"skipped", "cancelled"}


def test_workers_import_nothing_of_the_folder_that_a_run_is_started_in(album, tmp_path, monkeypatch):
    (tmp_path / "intarsia").mkdir()
    (tmp_path / "intarsia" / "__init__.py").write_text("raise SystemExit('another intarsia')")
    (tmp_path / "queue.py").write_text("raise SystemExit('another queue')")
    monkeypatch.chdir(tmp_path)
    assert batch.run(album.manifest(album.rows(2)), tmp_path / "out", album.options).status == {"ok": 2}
