"""Bad rows among good ones: the good ones are done, each bad one is named with its class. And bad manifests."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from intarsia import batch
from intarsia.batch.manifest.reader import Manifest
from intarsia.batch.manifest.rows import Reader, Refused
from intarsia.errors import RequestError
from tests.batch.conftest import Album, image_hashes, lines


@pytest.fixture
def damaged(album: Album) -> Album:
    """Images that are none, beside those that are."""
    folder = album.folder
    whole = (folder / "photos/0.png").read_bytes()
    (folder / "photos/cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "photos/text.png").write_text("this is no image")
    (folder / "photos/empty.png").write_bytes(b"")
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(folder / "masks/black.png")
    Image.fromarray(np.full((64, 32), 255, np.uint8)).save(folder / "masks/tall.png")
    return album


BAD = [
    ({"init_image": "photos/gone.png"}, "io", "file not found"),
    ({"mask_image": "masks/gone.png"}, "io", "file not found"),
    ({"init_image": "photos/cut.png"}, "decode", "truncated"),
    ({"init_image": "photos/text.png"}, "decode", "is not an image"),
    ({"init_image": "photos/empty.png"}, "decode", "is empty"),
    ({"init_image": "photos"}, "decode", "is a folder"),
    ({"mask_image": "masks/black.png"}, "mask", "mask_image is empty"),
    ({"mask_image": "masks/tall.png"}, "mask", "aspect ratio"),
    ({"mask_image": None}, "mask", "mask_image is required"),
    ({"width": 8}, "size", "width must be"),
    ({"height": 4096}, "size", "height must be"),
    ({"strength": 3.0}, "param", "strength must be"),
    ({"steps": "many"}, "param", "steps must be"),
    ({"scheduler": "NoScheduler"}, "param", "scheduler must be one of"),
    ({"model": "no-model"}, "param", "Model not found"),
    ({"loras": [{"id": "no-lora"}]}, "param", "LoRA not found"),
    ({"stepz": 3}, "param", "'stepz' is not a key of a row"),
    ({"seed": 1.5}, "param", "seed must be"),
    ({"samples": 9}, "param", "samples must be"),
    ({"safety_checker": True}, "safety", "no checker is installed"),
    ({"output": "../outside.png"}, "param", "inside the output folder"),
    ({"output": "/tmp/outside.png"}, "param", "inside the output folder"),
    ({"output": "a.tiff"}, "param", "extension must be one of"),
    ({"output": "n" * 300}, "param", "at most 255 bytes"),
    ({"output": "a\0b.png"}, "param", "output must be"),
    ({"output": 7}, "param", "output must be"),
    ({"id": "\ud800"}, "param", "id must be"),
    ({"id": ["x"]}, "param", "id must be"),
    ({"init_image": "http://127.0.0.1:9/x.png"}, "io", "Unable to fetch"),
    ({"prompt": "nan"}, "nan", "not finite"),
    ({"prompt": "broken"}, "internal", "a defect of ours"),
]


def test_every_bad_row_is_named_with_its_class_and_the_others_are_done(damaged, with_faults, tmp_path):
    rows = []
    for number, (fields, _, _) in enumerate(BAD):
        rows += [damaged.row(2 * number), damaged.row(6 * number, **{"id": f"bad-{number}", **fields})]
    out = tmp_path / "out"
    stats = batch.run(damaged.manifest(rows), out, damaged.options)
    made = {line["line"]: line for line in lines(out)}
    assert len(made) == len(rows) == stats.rows
    for number, (fields, error, sentence) in enumerate(BAD):
        good, bad = made[2 * number + 1], made[2 * number + 2]
        assert good["status"] == "ok", good
        assert (bad["status"], bad["error"]) == ("error", error), (fields, bad)
        assert sentence in bad["text"], bad
        assert "\n" not in bad["text"]
    assert len(image_hashes(out)) == len(BAD)
    assert not (tmp_path / "outside.png").exists()
    report = batch.report(out)
    assert (report["ok"], report["error"]) == (len(BAD), len(BAD))
    again = batch.retry(damaged.manifest(rows), out, damaged.options)
    assert (again.rows, again.failed) == (len(BAD), len(BAD))


def test_lines_that_are_no_rows(album, tmp_path):
    good = [album.row(number) for number in range(4)]
    rows = [
        good[0], "{not json", good[1], "[1, 2]", '{"id": "twice", "id": "twice"}', '"text"', "", good[2],
        '{"seed": 1' + "0" * 5000 + "}", "[" * 100_000, good[3], json.dumps({**album.row(9), "id": "last"})[:-9],
    ]  # fmt: skip
    path = album.manifest(rows)
    path.write_bytes(path.read_bytes().replace(b'"text"', b'"\xff\xfe"'))
    stats = batch.run(path, tmp_path / "out", album.options)
    made = {line["line"]: line for line in lines(tmp_path / "out")}
    assert {number for number, line in made.items() if line["status"] == "ok"} == {1, 3, 8, 11}
    bad = {number: line for number, line in made.items() if line["status"] == "error"}
    assert set(bad) == {2, 4, 5, 6, 9, 10, 12}
    assert all(line["error"] == "param" and line["text"].startswith(f"line {number} ") for number, line in bad.items())
    assert stats.failed == 7
    sentences = {2: "is not JSON", 4: "must be a JSON object", 5: "'id' is there twice", 6: "is not UTF-8"}
    for number, sentence in sentences.items():
        assert sentence in bad[number]["text"]


def test_ids_and_outputs_that_are_there_twice_are_refused_on_both_sides(album, tmp_path):
    rows = [
        album.row(0),
        album.row(1, id="same"), album.row(2, id="same"),
        album.row(3, output="one.png"), album.row(4, output="One.PNG"),
        album.row(5, output="x.png", samples=2), album.row(6, output="x-1.png"),
        album.row(7, output="folder.png"), album.row(8, output="folder.png/a.png"),
        album.row(9),
    ]  # fmt: skip
    out = tmp_path / "out"
    batch.run(album.manifest(rows), out, album.options)
    made = {line["line"]: line for line in lines(out)}
    assert {number for number, line in made.items() if line["status"] == "ok"} == {1, 10}
    assert made[2]["text"] == "line 2 and line 3 have the id 'same' in common"
    assert made[3]["id"] == "same (line 3)"
    assert "line 5 and line 4 have the output" in made[5]["text"]
    assert "line 6 and line 7 have the output" in made[6]["text"]
    assert "a folder" in made[8]["text"]
    assert "a folder" in made[9]["text"]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("m.jsonl", b"", "has no rows"),
        ("m.jsonl", b"\n \n", "has no rows"),
        ("m.csv", b"", "has no rows"),
        ("m.csv", b"id,init_image\n", "has no rows"),
        ("m.csv", b"id,stepz\na,1\n", "'stepz' is not a column"),
        ("m.csv", b"id,id\na,1\n", "'id' is there twice"),
        ("m.parquet", b"PAR0", "cannot be read as Parquet"),
        ("m.yaml", b"", "extension must be one of"),
    ],
)
def test_manifests_that_cannot_be_used(album, tmp_path, name, content, sentence):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="Parquet needs pyarrow: pip install 'intarsia[batch]'")
    (album.folder / name).write_bytes(content)
    with pytest.raises(RequestError, match=sentence):
        batch.run(album.folder / name, tmp_path / "out", album.options)
    with pytest.raises(RequestError, match=sentence):
        batch.validate(album.folder / name, album.options)


def test_no_manifest_and_no_folder(album, tmp_path):
    with pytest.raises(RequestError, match="does not exist"):
        batch.run(album.folder / "none.jsonl", tmp_path / "out", album.options)
    with pytest.raises(RequestError, match="is a folder"):
        batch.run((album.folder / "photos").rename(album.folder / "x.jsonl"), tmp_path / "out", album.options)
    with pytest.raises(RequestError, match="no such folder of images"):
        batch.run(batch.Pair(album.folder / "nothing", album.folder / "masks"), tmp_path / "out", album.options)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("stepz = 3", "stepz is not a field"), ("steps = 0", "steps must be"), ("id = 'x'", "same for all rows"),
     ("=", "cannot be read as TOML")],
)  # fmt: skip
def test_defaults_that_cannot_be_used_are_refused_before_the_run(album, tmp_path, content, sentence):
    (album.folder / "defaults.toml").write_text(content)
    options = album.with_options(defaults=str(album.folder / "defaults.toml"))
    with pytest.raises(RequestError, match=sentence):
        batch.run(album.manifest(album.rows(1)), tmp_path / "out", options)


@pytest.mark.slow
def test_a_line_far_down_is_named(album):
    row = json.dumps(album.row(0))
    rows = [row.replace("row-0", f"row-{number}") for number in range(77_400)]
    rows[77_340] = '{"id": "x", '
    manifest = Manifest(album.manifest(rows))
    reader = Reader(manifest.base, album.options, {})
    found = [row for row in map(reader.row, manifest) if isinstance(row, Refused)]
    assert [(each.number, each.id, each.error) for each in found] == [(77_341, "line 77341", "param")]
    assert found[0].text.startswith("line 77341 is not JSON")


def test_validate_finds_what_a_run_would_find(damaged):
    rows = [damaged.row(0), *(damaged.row(6 * number + 6, **fields) for number, (fields, _, _) in enumerate(BAD[:-3]))]
    rows += [damaged.row(90, id="same"), damaged.row(91, id="same")]
    found = batch.validate(damaged.manifest(rows), damaged.options)
    expected = {number + 2: error for number, (_, error, _) in enumerate(BAD[:-3])}
    problems = {each.number: each.error for each in found.problems}
    assert problems == expected | {len(BAD): "param", len(BAD) - 1: "param"}
    quick = {each.number for each in batch.validate(damaged.manifest(rows), damaged.options, decode=False).problems}
    assert quick == {
        number for number in problems if "decode" not in problems[number] and problems[number] != "mask"
    } | {number + 2 for number, (fields, _, _) in enumerate(BAD[:-3]) if fields.get("mask_image", "") is None} | {
        number + 2 for number, (fields, _, _) in enumerate(BAD) if fields.get("init_image") == "photos"
    }


@pytest.mark.parametrize(
    "text", ["steps = " + "[" * 100_000, "steps = " + "{a=" * 100_000, "loras = " + "[" * 300 + "]" * 300], ids=len
)
def test_defaults_that_are_nested_deeply_are_one_line(album, text):
    (album.folder / "deep.toml").write_text(text)
    options = album.with_options(defaults=album.folder / "deep.toml")
    with pytest.raises(RequestError, match=r"deep\.toml: (is nested too deeply|loras)") as caught:
        batch.validate(album.manifest(album.rows(1)), options)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def test_rows_that_are_nested_deeply_are_errors_of_their_own(album):
    deep = ["[" * 200_000, "[" * 900 + "]" * 900, '{"a":' * 900 + "1" + "}" * 900]
    lines = [f'{{"id": "{number}", "loras": {value}}}' for number, value in enumerate(deep)]
    cells = [f'{number},a.png,"{value}"\n' for number, value in enumerate(deep[:2])]
    (album.folder / "deep.csv").write_text("".join(["id,init_image,loras\n", *cells]))
    for manifest, numbers in (
        (album.manifest([*lines, album.row(0)]), [1, 2, 3]),
        (album.folder / "deep.csv", [2, 3]),
    ):
        found = batch.validate(manifest, album.options)
        assert [problem.number for problem in found.problems] == numbers
        assert all(len(problem.text) < 2000 and problem.text.isprintable() for problem in found.problems)
