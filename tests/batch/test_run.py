"""A run from end to end on the null backend: all rows, in any order, shard and batch; resuming; stopping."""

from __future__ import annotations

import json
import os
import random
import shutil

import numpy as np
import pytest
from PIL import Image

import intarsia
from intarsia import batch
from intarsia.errors import OutputError, RequestError
from tests.batch.conftest import image_hashes, lines


@pytest.mark.slow
def test_a_thousand_rows_are_all_there_and_the_report_is_right(album, tmp_path):
    rows = [album.row(number, **({"samples": 2} if number % 100 == 7 else {})) for number in range(1000)]
    out = tmp_path / "out"
    stats = batch.run(album.manifest(rows), out, album.with_options(workers=2))
    assert (stats.rows, stats.status["ok"], stats.images, stats.failed) == (1000, 1000, 1010, 0)
    made, found = lines(out), image_hashes(out)
    assert len(made) == 1000
    assert {line["id"] for line in made} == {row["id"] for row in rows}
    assert {
        name: digest for line in made for name, digest in zip(line["outputs"], line["sha256"], strict=True)
    } == found
    assert len(found) == 1010
    report = batch.report(out)
    assert (report["rows"], report["ok"], report["error"], report["failed"]) == (1000, 1000, 0, [])
    numbers = report["runs"]["report"]
    assert numbers["images"] == 1010
    assert {"resolve", "denoise", "decode", "paste", "write", "total"} <= set(numbers["stages"])
    assert all(0 < each["p50"] <= each["p95"] for name, each in numbers["stages"].items() if name == "total")
    assert 0 < numbers["batch_fill"] <= 1
    assert 0 < numbers["warm_up_seconds"] < numbers["seconds"]


def test_a_row_is_what_the_engine_makes_of_it(album, tmp_path, monkeypatch):
    monkeypatch.chdir(album.folder)  # where the manifest's paths begin
    row = album.row(3, seed=11, samples=2, output="deep/down/name.png")
    out = tmp_path / "out"
    batch.run(album.manifest([row]), out, album.options)
    fields = {key: value for key, value in row.items() if key not in ("id", "output")}
    fields |= {name: str(album.folder / fields[name]) for name in ("init_image", "mask_image")}
    with intarsia.Engine("null", weights=album.weights) as engine:
        result = engine.run(intarsia.InpaintRequest(**fields))
        again = engine.run(intarsia.request_from(out / "deep/down/name-2.png"))
    assert again.images[0].tobytes() == result.images[1].tobytes()
    for sample in (1, 2):
        with Image.open(out / f"deep/down/name-{sample}.png") as made:
            assert np.array_equal(np.asarray(made), np.asarray(result.images[sample - 1]))
            assert json.loads(made.text["intarsia"])["seed"] == 10 + sample
    (line,) = lines(out)
    assert line["seeds"] == [11, 12]
    assert line["model_sha256"] == result.plan.model.sha256


@pytest.mark.every(3)
@pytest.mark.parametrize("strip", [False, True])
def test_exif_of_a_rows_image_is_in_its_file_unless_it_is_stripped(album, tmp_path, monkeypatch, strip):
    monkeypatch.chdir(album.folder)
    row = album.row(3, output="name.jpg")
    block = Image.Exif()
    block[0x010F] = "Camera"
    with Image.open(album.folder / row["init_image"]) as image:
        image.convert("RGB").save(tmp_path / "photo.jpg", exif=block)
    row["init_image"] = str(tmp_path / "photo.jpg")
    assert batch.run(album.manifest([row]), tmp_path / "out", album.with_options(strip=strip)).status["ok"] == 1
    with Image.open(tmp_path / "out" / "name.jpg") as made:
        assert made.getexif().get(0x010F) == (None if strip else "Camera")
    assert intarsia.request_from(tmp_path / "out" / "name.jpg").init_image == row["init_image"]


def test_an_image_that_is_extended_needs_no_mask_and_is_done_once(album, tmp_path):
    row = album.row(3, seed=11, extend="left=24")
    del row["mask_image"]
    manifest, out = album.manifest([row]), tmp_path / "out"
    assert not batch.validate(manifest, album.options).problems
    assert batch.run(manifest, out, album.options).status["ok"] == 1
    (line,) = lines(out)
    with Image.open(album.folder / row["init_image"]) as given, Image.open(out / line["outputs"][0]) as made:
        assert made.size == (given.width + 24, given.height)
    os.utime(album.folder / row["init_image"])  # looked at again, and found to be the same
    assert batch.run(manifest, out, album.options).status == {"skipped": 1}


@pytest.mark.slow
def test_files_say_of_their_inputs_what_the_manifest_says(album, tmp_path):
    """So that a batch that is run in another place, or on another machine, gives the same bytes."""
    manifest = album.manifest([album.row(0), album.row(1, output="deep/er/name.png")])
    batch.run(manifest, tmp_path / "out", album.options)
    moved = shutil.copytree(album.folder, tmp_path / "elsewhere" / "moved")
    batch.run(moved / manifest.name, tmp_path / "elsewhere" / "out", album.options)
    assert image_hashes(tmp_path / "out") == image_hashes(tmp_path / "elsewhere" / "out")
    with Image.open(tmp_path / "out" / "deep/er/name.png") as made:
        assert json.loads(made.text["intarsia"])["inputs"]["mask_image"]["path"] == "masks/1.png"


@pytest.mark.slow
def test_order_shards_workers_and_neighbors_change_no_image(album, tmp_path):
    rows = album.rows(36)
    batch.run(album.manifest(rows), tmp_path / "one", album.with_options(slots=1))
    random.Random(5).shuffle(rows)
    shuffled = album.manifest(rows, "shuffled.jsonl")
    batch.run(shuffled, tmp_path / "two", album.with_options(workers=2, slots=5))
    for part in (1, 2, 3):
        batch.run(shuffled, tmp_path / "shards", album.with_options(shard=(part, 3)))
    batch.run(album.manifest(rows[:5], "few.jsonl"), tmp_path / "few", album.options)
    reference = image_hashes(tmp_path / "one")
    assert len(reference) == 36
    assert len(set(reference.values())) == 36  # every row has a seed of its own
    assert image_hashes(tmp_path / "two") == reference
    assert image_hashes(tmp_path / "shards") == reference
    assert image_hashes(tmp_path / "few").items() <= reference.items()

    shards = [lines(tmp_path / "shards", f"results-{part}-of-3.jsonl") for part in (1, 2, 3)]
    assert all(len(shard) > 3 for shard in shards)  # the hash divides about evenly
    assert batch.merge(tmp_path / "shards") == 36
    assert sorted(path.name for path in (tmp_path / "shards").glob("results*")) == ["results.jsonl"]
    assert batch.report(tmp_path / "shards")["ok"] == 36
    # after merging everything is known to be done, whole or in other shards
    assert batch.run(shuffled, tmp_path / "shards", album.options).before == 36
    other = album.with_options(shard=(2, 2))
    assert batch.run(shuffled, tmp_path / "shards", other).status == {}


@pytest.mark.slow
def test_merge_of_other_folders_needs_their_images(album, tmp_path):
    manifest = album.manifest(album.rows(6))
    for part in (1, 2):
        batch.run(manifest, tmp_path / f"machine-{part}", album.with_options(shard=(part, 2)))
    with pytest.raises(OutputError, match="copy the images"):
        batch.merge(tmp_path / "machine-1", [tmp_path / "machine-2"])
    for path in (tmp_path / "machine-2").glob("*.png"):
        path.rename(tmp_path / "machine-1" / path.name)
    assert batch.merge(tmp_path / "machine-1", [tmp_path / "machine-2"]) == 6
    assert batch.run(manifest, tmp_path / "machine-1", album.options).before == 6


def test_another_run_seed_gives_other_images_and_a_rows_own_seed_stays(album, tmp_path):
    rows = [album.row(0), album.row(1, seed=5)]
    manifest = album.manifest(rows)
    batch.run(manifest, tmp_path / "a", album.with_options(seed=1))
    batch.run(manifest, tmp_path / "b", album.with_options(seed=2))
    one, two = image_hashes(tmp_path / "a"), image_hashes(tmp_path / "b")
    assert one["row-0.png"] != two["row-0.png"]
    assert one["row-1.png"] == two["row-1.png"]


def test_resuming_does_what_is_new_changed_or_gone_and_nothing_else(album, tmp_path):
    rows, out = album.rows(8), tmp_path / "out"
    batch.run(album.manifest(rows), out, album.options)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}
    assert batch.run(album.manifest(rows), out, album.options).to_dict()["before"] == 8

    rows[1]["prompt"] = "another thing"  # parameters
    rows[2]["output"] = "moved.png"  # place
    (out / "row-3.png").unlink()  # gone
    (out / "row-4.png").write_bytes(b"torn")  # not what was written
    Image.new("RGB", (32, 32), 77).save(album.folder / "photos/0.png")  # content: rows 0 and 6
    os.utime(album.folder / "photos/5.png")  # touched alone: looked at, not run
    rows.append(album.row(8))  # the manifest grew
    manifest = album.manifest(rows)
    stats = batch.run(manifest, out, album.options)
    assert {line["id"] for line in lines(out)[8:]} == {f"row-{number}" for number in (0, 1, 2, 3, 4, 5, 6, 8)}
    assert {line["id"]: line["status"] for line in lines(out)[8:]}["row-5"] == "skipped"
    assert (stats.status["ok"], stats.status["skipped"], stats.before) == (7, 1, 1)
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}
    assert {name for name in before if after.get(name) == before[name]} == {"row-2.png", "row-5.png", "row-7.png"}

    again = batch.run(manifest, out, album.options)
    assert (again.before, again.status) == (9, {})
    assert batch.report(out)["ok"] == 9
    fresh = tmp_path / "fresh"
    batch.run(manifest, fresh, album.options)
    assert image_hashes(fresh).items() <= image_hashes(out).items()


@pytest.mark.slow
def test_a_changed_model_or_encoding_runs_again(album, tmp_path):
    manifest, out = album.manifest(album.rows(2)), tmp_path / "out"
    batch.run(manifest, out, album.options)
    assert batch.run(manifest, out, album.with_options(compression=9)).status["ok"] == 2
    assert batch.run(manifest, out, album.with_options(compression=9)).before == 2
    (album.weights.parent / "nothing/more.txt").write_text("a note beside the weights")
    assert batch.run(manifest, out, album.with_options(compression=9)).before == 2
    (album.weights.parent / "nothing/model_index.json").write_text('{"_diffusers_version": "0.42.1"}')
    assert batch.run(manifest, out, album.with_options(compression=9)).status["ok"] == 2


def test_too_many_errors_stop_the_run_and_every_row_is_named(album, tmp_path):
    rows = [album.row(number, strength=3.0) if number < 40 else album.row(number) for number in range(60)]
    stats = batch.run(album.manifest(rows), tmp_path / "out", album.with_options(max_errors="50%"))
    made = {line["id"]: line["status"] for line in lines(tmp_path / "out")}
    assert len(made) == 60
    failed = list(made.values()).count("error")  # how many are written down together hangs on the machine
    assert 30 < failed <= 40
    assert stats.stopped == f"{failed} rows failed, more than 30"
    assert set(made.values()) <= {"error", "skipped", "cancelled", "ok"}
    last = batch.run(album.manifest(rows[40:]), tmp_path / "out", album.options)
    assert last.status["ok"] + last.before == 20


def test_fail_fast_stops_at_the_first_failure_and_records_every_row(album, tmp_path):
    rows = [album.row(0, steps=0), *(album.row(number) for number in range(1, 30))]
    stats = batch.run(album.manifest(rows), tmp_path / "out", album.with_options(fail_fast=True))
    assert stats.failed == 1
    assert stats.stopped
    assert len({line["id"] for line in lines(tmp_path / "out")}) == 30


def test_retry_runs_just_those_that_failed(album, tmp_path):
    rows = [album.row(number) for number in range(6)]
    rows[2]["init_image"] = "photos/late.png"
    rows[4]["scheduler"] = "NoScheduler"
    manifest, out = album.manifest(rows), tmp_path / "out"
    assert batch.run(manifest, out, album.options).errors == {"io": 1, "param": 1}
    (album.folder / "photos/0.png").rename(album.folder / "photos/late.png")
    (out / "row-5.png").unlink()  # not done any more, but not failed either
    only_io = batch.retry(manifest, out, album.options, classes=["io"])
    assert (only_io.rows, only_io.status) == (1, {"ok": 1})
    rest = batch.retry(manifest, out, album.options)
    assert (rest.rows, rest.status) == (1, {"error": 1})
    assert not (out / "row-5.png").exists()


def test_the_output_folder_is_one_runs_alone(album, tmp_path):
    from intarsia.batch.ledger.lock import locked

    out, manifest = tmp_path / "out", album.manifest(album.rows(3))
    with locked(out), pytest.raises(OutputError, match="in use by another run"):
        batch.run(manifest, out, album.options)
    with locked(out, (1, 3)):
        with pytest.raises(OutputError, match="in use"):
            batch.run(manifest, out, album.with_options(shard=(1, 3)))
        with pytest.raises(OutputError, match="in use"):
            batch.run(manifest, out, album.options)
        with pytest.raises(OutputError, match="in use"):
            batch.run(manifest, out, album.with_options(shard=(2, 4)))  # another division would share rows
        batch.run(manifest, out, album.with_options(shard=(2, 3)))
    batch.run(manifest, out, album.options)
    assert len(image_hashes(out)) == 3


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"workers": 0}, "workers must be between 1 and 256"),
        ({"threads": 257}, "threads must be"),
        ({"shard": (3, 2)}, "shard must be I/N"),
        ({"format": "tiff"}, "format must be one of png"),
        ({"runner": "slurm"}, "runner must be one of local, ray"),
        ({"max_errors": "many"}, "max_errors must be a number"),
        ({"max_errors": "101%"}, "max_errors must be"),
        ({"seed": -1}, "seed must be between"),
    ],
)
def test_options_out_of_bounds(changes, sentence):
    with pytest.raises(RequestError, match=sentence):
        batch.Options(**changes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"seed": "x"}, "seed must be an integer, not 'x'"),
        ({"workers": 1.5}, "workers must be an integer or None, not 1.5"),
        ({"compression": True}, "compression must be an integer, not True"),
        ({"metadata": 1}, "metadata must be True or False, not 1"),
        ({"allow_private_urls": "no"}, "allow_private_urls must be True or False, not 'no'"),
        ({"shard": "1/2"}, r"shard must be two integers \(I, N\), not '1/2'"),
        ({"shard": (1,)}, r"shard must be two integers \(I, N\), not \(1,\)"),
        ({"weights": 5}, "weights must be a text or None, not 5"),
        ({"max_errors": 2.5}, "max_errors must be a number of rows, or a share of them as in 5%, not 2.5"),
    ],
)
def test_options_of_the_wrong_kind_are_named(changes, sentence):
    with pytest.raises(RequestError, match=sentence):
        batch.Options(**changes)


def test_options_take_paths_and_numbers_of_errors(tmp_path):
    options = batch.Options(weights=tmp_path, defaults=tmp_path / "a.toml", max_errors=3)
    assert (options.weights, options.defaults) == (str(tmp_path), str(tmp_path / "a.toml"))
    assert batch.Options.of(json.loads(json.dumps(options.to_dict()))) == options


def test_an_image_cannot_leave_by_a_link(album, tmp_path):
    out = tmp_path / "out"
    (out).mkdir()
    (tmp_path / "elsewhere").mkdir()
    (out / "link").symlink_to(tmp_path / "elsewhere")
    stats = batch.run(album.manifest([album.row(0, output="link/a.png")]), out, album.options)
    assert stats.errors == {"io": 1}
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.slow
def test_unfinished_files_go_but_not_those_of_a_shard_at_work(album, tmp_path):
    manifest, out = album.manifest(album.rows(4)), tmp_path / "out"
    (out / "deep").mkdir(parents=True)
    new, old = out / ".intarsia-new.part", out / "deep" / ".intarsia-old.part"
    for path in (new, old):
        path.write_bytes(b"torn")
    os.utime(old, (1e9, 1e9))
    batch.run(manifest, out, album.with_options(shard=(1, 2)))
    assert new.exists()
    assert not old.exists()
    batch.run(manifest, out, album.with_options(shard=(2, 2)))
    assert new.exists()
    batch.run(manifest, tmp_path / "other", album.options)
    (tmp_path / "other" / ".intarsia-new.part").write_bytes(b"torn")
    batch.run(manifest, tmp_path / "other", album.options)
    assert not (tmp_path / "other" / ".intarsia-new.part").exists()
