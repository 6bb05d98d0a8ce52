"""``intarsia compare``: the grammar of axes, the files, exit codes, JSON."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from intarsia import cli
from intarsia.commands.axis_text import axes_of, settings_of, values_of
from intarsia.comparing.axes import Axis
from intarsia.errors import OutputError, RequestError


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_registry: Path) -> Path:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    mask = np.zeros((48, 64), np.uint8)
    mask[8:30, 20:50] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    monkeypatch.setenv("INTARSIA_WEIGHTS", str(empty_registry))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: object) -> Any:
    call = ["compare", "photo.png", "mask.png", "--backend", "null", *map(str, arguments)]
    return cli.app(call, standalone_mode=False)


@pytest.mark.parametrize(
    ("name", "text", "values"),
    [
        ("steps", "10,20, 30", [10, 20, 30]),
        ("steps", "10", [10]),
        ("scheduler", "euler,dpm++2m", ["euler", "dpm++2m"]),
        ("guidance_scale", "1,7.5", [1.0, 7.5]),
        ("karras_sigmas", "yes,no", [True, False]),
        ("token_merging", "none,yes,0.5", [None, True, 0.5]),
        ("mask_padding", "whole,auto,32", ["whole", "auto", 32]),
        ("clip_skip", "none,2", [None, 2]),
        ("extend", "left=64,top=8", ["left=64,top=8"]),
        ("seed", "1,18446744073709551615", [1, 2**64 - 1]),
        ("masked_content", "none,fill", ["none", "fill"]),
        ("prompt", "a cat, a dog", ["a cat, a dog"]),
        ("prompt", '["a"]', ['["a"]']),
        ("model", '["a,b.safetensors", "tiny"]', ["a,b.safetensors", "tiny"]),
        ("loras", "none,ink:0.5", [[], ["ink:0.5"]]),
        ("loras", '["ink", ["ink", "wash:0.4"], []]', [["ink"], ["ink", "wash:0.4"], []]),
        ("ip_adapter", '[null, {"id": "look", "image": "a.png"}]', [None, {"id": "look", "image": "a.png"}]),
    ],
)
def test_values_of_a_text(name, text, values):
    found = values_of(name, text)
    assert found == values
    assert [type(value) for value in found] == [type(value) for value in values]


@pytest.mark.parametrize(
    ("settings", "options", "sentence"),
    [
        (["steps"], {}, "--axis must be NAME=VALUE,VALUE, not 'steps'"),
        (["sampler=a,b"], {}, "--axis sampler is not a field of a request: it is scheduler here"),
        (["steps=1,,2"], {}, "steps must be values with commas between them, none of them empty, not '1,,2'"),
        (["steps=[]"], {}, "steps must be values with commas between them, none of them empty, not '[]'"),
        (["steps=1,2"], {"steps": "3"}, "--axis steps is given by an option of its own too"),
        ([], {"steps": "1,"}, "steps must be values with commas between them, none of them empty, not '1,'"),
    ],
)
def test_what_is_no_axis_is_refused(settings, options, sentence):
    with pytest.raises(RequestError, match=f"^{re.escape(sentence)}$"):
        axes_of(settings_of(settings), options, [])


def test_a_repeated_axis_is_one_axis():
    compared = settings_of(["prompt=a, b", "steps=4", "prompt=c", "steps=5,6"])
    assert axes_of(compared, {"strength": 0.5}, ["axis"]) == (
        {"strength": 0.5}, [Axis("prompt", ("a, b", "c")), Axis("steps", (4, 5, 6))],
    )  # fmt: skip


def test_grid_table_and_manifest_stand_beside_each_other_and_count_up(place, capsys):
    run("--steps", "2,3", "--seed", 5, "-p", "a, b")
    run("--steps", "2,3", "--seed", 5, "-p", "a, b")
    names = [f"photo-compare{number}.{suffix}" for number in ("", "-2") for suffix in ("png", "csv", "jsonl")]
    captured = capsys.readouterr()
    assert (captured.out.split(), captured.err) == (names, "")
    assert sorted(path.name for path in place.glob("photo-*")) == sorted(names)

    with (place / "photo-compare.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["cell"], row["steps"], row["prompt"]) for row in rows] == [
        ("cell-01", "2", "a, b"), ("cell-02", "3", "a, b"),
    ]  # fmt: skip
    lines = [json.loads(line) for line in (place / "photo-compare.jsonl").read_text().splitlines()]
    shared = {
        "init_image": str(place / "photo.png"),
        "mask_image": str(place / "mask.png"),
        "prompt": "a, b",
        "seed": 5,
    }
    assert lines == [{"id": "cell-01", **shared, "steps": 2}, {"id": "cell-02", **shared, "steps": 3}]


@pytest.mark.parametrize("name", ["x.png", "x.csv", "x.jsonl", "full/cell-02.png"])
def test_nothing_is_replaced_unless_that_is_asked(place, name):
    (place / "full").mkdir()
    (place / name).write_text("mine")
    call = ("--steps", "2,3", "--out", "x.png", "--keep", "full")
    with pytest.raises(OutputError, match=f"^{re.escape(name)} is already there"):
        run(*call)
    assert (place / name).read_text() == "mine"
    run(*call, "--overwrite")
    assert (place / name).read_bytes() != b"mine"
    assert len(list((place / "full").iterdir())) == 2


def test_a_failed_cell_is_exit_code_1_and_the_rest_is_written(place, capsys):
    code = run("--steps", "4,60", "--scheduler", "euler,lcm", "--json", "--quiet")
    captured = capsys.readouterr()
    made = json.loads(captured.out)
    assert code == 1
    assert captured.err == f"intarsia: cell-04 failed: {made['cells'][3]['error']}\n"
    assert [cell["status"] for cell in made["cells"]] == ["ok", "ok", "ok", "failed"]
    assert made["axes"] == {"steps": [4, 60], "scheduler": ["euler", "lcm"]}
    assert (made["schema"], made["grid"], made["lane_rows"]) == (2, "photo-compare.png", 2 + 2 + 42)
    assert (place / made["grid"]).is_file()


def test_tables_of_ones_own_may_be_compared(place, capsys):
    capsys.readouterr()
    for name, steps in (("a.json", 2), ("b.json", 3)):
        cli.app(["schedulers", "show", "euler", "--steps", str(steps), "--json"], standalone_mode=False)
        (place / name).write_text(capsys.readouterr().out)
    run("--axis", "table=a.json,b.json", "--json")
    made = json.loads(capsys.readouterr().out)
    assert [cell["evaluations"] for cell in made["cells"]] == [2, 3]
    rows = [json.loads(line) for line in (place / made["manifest"]).read_text().splitlines()]
    assert [len(row["table"]["timesteps"]) for row in rows] == [2, 3]


def test_where_the_image_is_enlarged_no_mask_is_needed(place, capsys):
    cli.app(
        ["compare", "photo.png", "--backend", "null", "--axis", "extend=left=64", "--axis", "extend=left=64,top=64"],
        standalone_mode=False,
    )
    rows = [json.loads(line) for line in (place / "photo-compare.jsonl").read_text().splitlines()]
    assert [(row["extend"]["left"], row["extend"]["top"]) for row in rows] == [(64, 0), (64, 64)]
    with pytest.raises(RequestError, match=r"^mask is missing: intarsia compare IMAGE MASK$"):
        cli.app(["compare", "photo.png", "--steps", "2,3"], standalone_mode=False)


def test_image_and_mask_may_be_axes_alone(place):
    Image.open("mask.png").transpose(Image.Transpose.FLIP_TOP_BOTTOM).save("other.png")
    call = ["compare", "photo.png", "--backend", "null", "--axis", "mask=mask.png"]
    with pytest.raises(RequestError, match="--axis mask is not a field of a request: it is mask_image here"):
        cli.app(call, standalone_mode=False)
    call[-1:] = ["mask-image=mask.png", "--axis", "mask-image=other.png"]
    cli.app(call, standalone_mode=False)
    rows = [json.loads(line) for line in Path("photo-compare.jsonl").read_text().splitlines()]
    assert [row["mask_image"] for row in rows] == [str(place / "mask.png"), str(place / "other.png")]
