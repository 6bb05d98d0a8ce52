"""Tables as spreadsheets, data frames and the datasets library save them."""

from __future__ import annotations

import base64
import json
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from intarsia import batch
from intarsia.batch.manifest.cells import FLAGS, IMAGE_COLUMNS, TEXTS, WHOLE, CellError, plain, written
from intarsia.batch.manifest.line import KEYS
from intarsia.batch.manifest.reader import Manifest
from intarsia.engine.request import InpaintRequest
from intarsia.errors import RequestError
from tests.batch.conftest import image_hashes

GRID = [
    ["id", "init_image", "mask_image", "prompt", "steps", "seed", "width", "karras_sigmas", "guidance_scale"],
    ["a", "p.png", "m.png", "two\nlines; and, marks", "20", "7.0", "512.0", "TRUE", "7.5"],
    ["b", "q.png", "m.png", "42", "", "", "", "False", ""],
]
EXPECTED = [
    {"id": "a", "init_image": "p.png", "mask_image": "m.png", "prompt": "two\nlines; and, marks", "steps": 20,
     "seed": 7, "width": 512, "karras_sigmas": True, "guidance_scale": 7.5},
    {"id": "b", "init_image": "q.png", "mask_image": "m.png", "prompt": "42", "karras_sigmas": False},
]  # fmt: skip


def text_of(grid: list[list[str]], mark: str = ",", end: str = "\n") -> str:
    def quoted(cell: str) -> str:
        return f'"{cell}"' if any(sign in cell for sign in ',;\t\n"') else cell

    return "".join(mark.join(map(quoted, row)) + end for row in grid)


def fields_of(path: Path) -> list[dict[str, Any]]:
    read = list(Manifest(path))
    assert not any(line.problem for line in read), read
    return [{key: value for key, value in line.fields.items() if value is not None} for line in read]


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv_as_spreadsheets_save_it(tmp_path, suffix, encoding, mark, end):
    data = text_of(GRID, mark, end).encode(encoding)
    path = tmp_path / f"m.{suffix}"
    path.write_bytes((b"\xfe\xff" if encoding == "utf-16-be" else b"") + data)
    assert fields_of(path) == EXPECTED
    assert [line.number for line in Manifest(path)] == [3, 4]
    assert Manifest(path).notes == ()


def test_csv_with_what_spreadsheets_add(tmp_path):
    path = tmp_path / "m.csv"
    padded = [[*row, "", ""] for row in GRID] + [[""] * 11, [" "] * 11]
    path.write_text("sep=;\n" + text_of(padded, ";"))
    assert fields_of(path) == EXPECTED
    assert [line.number for line in Manifest(path)] == [4, 5]
    assert Manifest(path).notes == (f"{path}: left out, without a name: '' (column 10), '' (column 11)",)
    # cells that are empty at the end of a row alone
    path.write_text(text_of([GRID[0], *([*row, ""] for row in GRID[1:])]))
    assert fields_of(path) == EXPECTED
    # blanks behind the commas
    path.write_text('id, init_image, prompt\na, p.png, "one, two"\n')
    assert fields_of(path) == [{"id": "a", "init_image": "p.png", "prompt": "one, two"}]


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "__index_level_0__"])
def test_the_index_of_a_data_frame_is_left_out_and_named(tmp_path, name):
    path = tmp_path / "m.csv"
    path.write_text(text_of([[name, *GRID[0]], *([str(number), *row] for number, row in enumerate(GRID[1:]))]))
    assert fields_of(path) == EXPECTED
    assert Manifest(path).notes == (f"{path}: left out, without a name: {name!r} (column 1)",)


@pytest.mark.parametrize(
    ("column", "cell", "problem"),
    [
        (
            "guidance_scale",
            "7,5",
            "guidance_scale must be a number with a point, as in 7.5, and no other marks, not '7,5'",
        ),
        ("width", "1,024", "width must be a number with a point"),
        ("width", "1.024,0", "width must be a number with a point"),
        ("seed", "1.23457E+14", "seed '1.23457E+14' was shortened by a spreadsheet"),
        ("seed", "9.3e15", "seed '9.3e15' was shortened by a spreadsheet"),
    ],
)
def test_numbers_that_a_spreadsheet_wrote_otherwise_are_named(tmp_path, column, cell, problem):
    path = tmp_path / "m.csv"
    path.write_text(f"id;{column}\na;{cell}\nb;\n")
    first, second = Manifest(path)
    assert (first.number, first.fields, second.problem) == (2, {"id": "a"}, "")
    assert first.problem.startswith(problem)


@pytest.mark.parametrize("cell", ["nan", "NaN", "<NA>", "NaT", "None", "null", "#N/A", "n/a"])
def test_what_stands_for_an_empty_cell(cell):
    assert written("steps", cell) is None
    assert written("karras_sigmas", cell) is None
    assert written("prompt", cell) == cell, "words are words"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("steps", " 20 ", 20), ("steps", "20.0", 20), ("steps", "20.5", 20.5), ("steps", "many", "many"),
        ("karras_sigmas", "true", True), ("karras_sigmas", "FALSE", False), ("karras_sigmas", "0", False),
        ("karras_sigmas", "1.0", True), ("karras_sigmas", "2", 2), ("token_merging", "1", 1), ("seed", "3", 3),
        ("seed", "9007199254740993", 9007199254740993), ("strength", "1", 1), ("id", "007", "007"),
        ("loras", '[{"id": "ink", "strength": 0.5}]', [{"id": "ink", "strength": 0.5}]), ("loras", "[", "["),
    ],
)  # fmt: skip
def test_what_a_cell_means(name, text, value):
    found = written(name, text)
    assert (found, type(found)) == (value, type(value))


def test_every_column_is_of_one_kind():
    """A field that is added to the request is to be put into one of them, or is a number or JSON."""
    kinds = {name: json.dumps(spec) for name, spec in InpaintRequest.model_json_schema()["properties"].items()}
    assert {name for name, spec in kinds.items() if '"boolean"' in spec and "number" not in spec} == FLAGS
    assert {name for name, spec in kinds.items() if '"integer"' in spec} == WHOLE
    others = {"guidance_scale", "strength", "loras", "embeddings", "ip_adapter", "token_merging", "mask_blur"}
    others |= {"eta", "table", "extend"}
    assert TEXTS | WHOLE | FLAGS | others == KEYS
    assert IMAGE_COLUMNS - {"image"} <= TEXTS


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("m.xlsx", b"PK\3\4", "save the spreadsheet as CSV UTF-8"),
        ("m.ods", b"PK\3\4", "save the spreadsheet as CSV UTF-8"),
        ("m.json", b"[]", "JSON lines have one object a line"),
        ("m.csv", b"PK\3\4\0\0", "is no text, whatever its extension says: save the table as CSV UTF-8"),
        ("m.csv", "id\na\n".encode("utf-16-le"), "is no text"),
        ("m.csv", b"\xff\xfei", "begins like UTF-16 and is not"),
        ("m.jsonl", b"\xff\xfe\0\xd8", "begins like UTF-16 and is not"),
        ("m.csv", b'"id"x,prompt\na,b\n', "the header is not CSV"),
        ("m.csv", b"http://h/?SECRET,b\n", "'http://h/\\?…' is not a column"),
    ],
)
def test_files_that_are_no_manifests_say_what_to_do(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RequestError, match=sentence):
        list(Manifest(tmp_path / name))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_json_lines_as_other_programs_write_them(tmp_path, encoding, end):
    path = tmp_path / "m.jsonl"
    rows = ['{"id": "a", "prompt": "b\\u00e9b\\u00e9", "seed": NaN, "negative_prompt": NaN}', "", '{"id": "é"}']
    path.write_bytes(end.join(rows).encode(encoding))
    assert fields_of(path) == [{"id": "a", "prompt": "bébé"}, {"id": "é"}]
    assert [line.number for line in Manifest(path)] == [1, 3]


def test_json_lines_with_commas_between_them_are_named(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"id": "a"},\n{"id": "b"}\n{"id": "c", "seed": Infinity}\n')
    first, second, third = Manifest(path)
    assert first.problem.startswith("is not JSON: Extra data")
    assert first.problem.endswith("(a comma at the end: JSON lines have none between them)")
    assert (second.problem, third.fields["seed"]) == ("", float("inf"))


def test_defaults_with_a_byte_order_mark(album):
    path = album.folder / "defaults.toml"
    path.write_bytes(b"\xef\xbb\xbfsteps = 2\n")
    options = album.with_options(defaults=str(path))
    assert batch.validate(album.manifest([album.row(0)]), options).problems == ()


def test_an_image_as_the_datasets_library_writes_it():
    data = b"\x89PNG"
    uri = "data:;base64," + base64.b64encode(data).decode()
    cases = [
        ({"bytes": data, "path": "a.png"}, uri), ({"bytes": data, "path": None}, uri),
        ({"bytes": None, "path": "a.png"}, "a.png"), ({"bytes": None, "path": None}, None), ({"path": "a"}, "a"),
        ([{"bytes": data, "path": None}], uri), ([None], None), ([], None), (data, uri), ("a", "a"), (None, None),
    ]  # fmt: skip
    for value, expected in cases:
        assert plain("init_image", value) == expected
        adapter = plain("ip_adapter", {"id": "look", "image": value})
        assert adapter.get("image") == expected
    for value in ([data, data], {"bytes": data, "mode": "RGB"}, {"bytes": None, "path": 3}):
        with pytest.raises(CellError, match="init_image holds"):
            plain("init_image", value)


@pytest.fixture
def parquet() -> ModuleType:
    pytest.importorskip("pyarrow", reason="Parquet needs pyarrow: pip install 'intarsia[batch]'")
    from pyarrow import parquet

    return parquet


def test_parquet_of_datasets_is_run(album, tmp_path, parquet):
    import pyarrow as pa

    image, mask = ((album.folder / f"{sort}/0.png").read_bytes() for sort in ("photos", "masks"))
    rows = [
        {"init_image": {"bytes": image, "path": "x/one.png"}, "mask_image": {"bytes": mask, "path": None}},
        {"init_image": {"bytes": None, "path": "photos/0.png"}, "mask_image": {"bytes": mask, "path": None}},
        {"init_image": None, "mask_image": {"bytes": mask, "path": None}},
    ]
    table = pa.Table.from_pylist(rows).append_column("width", pa.array([64.0, 64.0, None]))
    parquet.write_table(table, album.folder / "m.parquet")
    (album.folder / "defaults.toml").write_text("steps = 2\nwidth = 64\nheight = 64\nseed = 1\n")
    # Without metadata, which has the paths of inputs that are files.
    options = album.with_options(defaults=str(album.folder / "defaults.toml"), metadata=False)
    (problem,) = batch.validate(album.folder / "m.parquet", options).problems
    assert (problem.number, problem.text) == (3, "id is required where init_image is not a text")
    assert batch.run(album.folder / "m.parquet", tmp_path / "out", options).status == {"ok": 2, "error": 1}
    made = image_hashes(tmp_path / "out")
    assert set(made) == {"x/one.png", "photos/0.png"}
    assert len(set(made.values())) == 1


def test_parquet_as_data_frames_write_it(tmp_path, parquet):
    import pyarrow as pa

    columns = {
        "id": pa.array([1.0, 2.0, None]),
        "init_image": pa.array(["p.png", "q.png", "r.png"]).dictionary_encode(),
        "mask_image": pa.array(["m.png"] * 3, pa.large_string()),
        "prompt": pa.array([datetime(2026, 1, 2), None, None], pa.timestamp("us")),
        "steps": pa.array([20.0, float("nan"), None]),
        "seed": pa.array([Decimal("7"), None, None], pa.decimal128(12, 2)),
        "karras_sigmas": pa.array([1.0, 0.0, None]),
        "fit_output": pa.array(["FALSE", None, "nan"]),
        "guidance_scale": pa.array(["7.5", None, None]),
        "loras": pa.array(['[{"id": "ink"}]', None, None]),
        "__index_level_0__": pa.array([0, 1, 2]),
    }
    path = tmp_path / "m.parquet"
    parquet.write_table(pa.table(columns), path)
    shared = {"mask_image": "m.png"}
    assert fields_of(path) == [
        {**shared, "id": 1, "init_image": "p.png", "prompt": "2026-01-02 00:00:00", "steps": 20, "seed": 7,
         "karras_sigmas": True, "fit_output": False, "guidance_scale": 7.5, "loras": [{"id": "ink"}]},
        {**shared, "id": 2, "init_image": "q.png", "karras_sigmas": False},
        {**shared, "init_image": "r.png"},
    ]  # fmt: skip
    assert Manifest(path).notes == (f"{path}: left out, without a name: '__index_level_0__' (column 11)",)

    parquet.write_table(pa.table({"id": ["a", "b"], "seed": [9.3e15, 2.0**53]}), path)
    first, second = Manifest(path)
    assert (
        first.problem
        == "seed 9300000000000000 was stored as a float, which has lost digits: store whole numbers or text"
    )
    assert (first.fields, second.fields["seed"]) == ({"id": "a"}, 2**53)
