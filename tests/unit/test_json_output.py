"""``--json``: of every command the keys that docs/json.md says, and of every error its shape."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main
from PIL import Image

from intarsia import cli
from intarsia.commands.streams import JSON_SCHEMA
from tests.command_line import run_intarsia
from tests.tiny_files import SD1_LORA, checkpoint, write

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "json.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `([a-z ]+)` \| (.+) \|$", re.MULTILINE)
SAME = re.compile(r"the same as `([a-z ]+)`")

Call = Callable[..., subprocess.CompletedProcess[str]]


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def documented() -> dict[str, set[str]]:
    """Command → its keys, as the page's first table has them."""
    rows = dict(ROW.findall(section("What each command prints")))
    same = {command: SAME.fullmatch(text) for command, text in rows.items()}
    texts = {command: rows[match[1]] if match else rows[command] for command, match in same.items()}
    return {command: set(re.findall(r"`([a-z_]+)`", text)) for command, text in texts.items()}


OWN_FORMATS = set(dict(ROW.findall(section("Formats of their own"))))
KEYS = documented()


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, set[str]]]:
    """(path, options) of every command that does something by itself."""
    children = getattr(command, "commands", {})
    if path and (not children or command.invoke_without_command):
        yield " ".join(path), {option for parameter in command.params for option in parameter.opts}
    for name, child in children.items():
        yield from commands(child, (*path, name))


COMMANDS = dict(commands(typer.main.get_command(cli.app)))


def test_the_page_has_every_command():
    assert set(KEYS) | OWN_FORMATS | {"serve"} == set(COMMANDS)
    assert not set(KEYS) & OWN_FORMATS
    assert f"whose `schema` is {JSON_SCHEMA}." in PAGE


def caller(folder: Path) -> Call:
    """Runs the command line in a folder with an image, a mask and what else commands read."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(folder / "photo.png")
    mask = np.zeros((48, 64), np.uint8)
    mask[8:30, 20:50] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    row = {"id": "a", "init_image": "photo.png", "mask_image": "mask.png", "steps": 2, "prompt": "x"}
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n")

    (folder / "nothing").mkdir()
    (folder / "nothing" / "model_index.json").write_text("{}")
    write(folder / "m.safetensors", checkpoint())
    write(folder / "ink.safetensors", SD1_LORA)
    (folder / "weights.toml").write_text(
        'schema = 1\ndefault = "nothing"\n[models.nothing]\nfamily = "sd15-inpaint"\npath = "nothing"\n'
        '[loras.ink]\npath = "ink.safetensors"\n'
    )
    environment = {**os.environ, "INTARSIA_WEIGHTS": str(folder / "weights.toml"), "XDG_CONFIG_HOME": str(folder)}
    return lambda *arguments: run_intarsia(arguments, cwd=folder, environment=environment)


@pytest.fixture
def call(tmp_path: Path) -> Call:
    return caller(tmp_path)


@pytest.fixture(scope="module")
def call_after_a_batch(tmp_path_factory: pytest.TempPathFactory) -> Call:
    """The same where ``batch run`` has been: what follows a run changes nothing for another."""
    made = caller(tmp_path_factory.mktemp("batch"))
    done = made("batch", "run", *ARGUMENTS["batch run"])
    assert done.returncode == 0, done.stderr
    return made


NULL = ("--backend", "null")
ARGUMENTS = {
    "inpaint": ("photo.png", "mask.png", *NULL),
    "compare": ("photo.png", "mask.png", *NULL, "--steps", "2,3"),
    "doctor": (),
    "models list": (),
    "models path": (),
    "models verify": (),
    "models add": ("m.safetensors",),
    "models scan": (".",),
    "models remove": ("nothing",),
    "schedulers": (),
    "schedulers list": (),
    "keys add": ("ann", "--file", "keys.txt"),
    "keys list": ("--file", "keys.txt"),
    "keys remove": ("ann", "--file", "keys.txt"),
    "batch validate": ("rows.jsonl",),
    "batch run": ("rows.jsonl", "--out", "out", *NULL),
    "batch retry": ("rows.jsonl", "--out", "out", *NULL),
    "batch report": ("out",),
    "batch sheet": ("out",),
    "batch merge": ("out",),
}


@pytest.mark.parametrize("command", sorted(set(KEYS) - {"export"}))  # which needs torch; tests/unit/test_flags.py
def test_a_command_prints_the_keys_that_the_page_says(call, call_after_a_batch, command):
    if command in ("keys list", "keys remove"):
        call("keys", "add", *ARGUMENTS["keys add"])
    chosen = call_after_a_batch if command.startswith("batch") else call
    done = chosen(*command.split(), *ARGUMENTS[command], "--json")
    made = json.loads(done.stdout)
    assert made.pop("schema") == JSON_SCHEMA, done.stderr
    missing, more = KEYS[command] - set(made), set(made) - KEYS[command]
    assert (missing, more) == (set(), set()) or (command.startswith("batch") and not missing)


CELL = {
    "id", "values", "status", "error", "seeds", "evaluations", "timings", "psnr", "mean_absolute", "warnings", "meta",
    "output",
}  # fmt: skip
MODEL = {"id", "installed", "family", "aliases", "licence", "size", "default", "realtime"}
PART = {"id", "installed", "families", "aliases", "licence"}


@pytest.mark.parametrize(
    ("arguments", "key", "inner"),
    [
        (("compare", *ARGUMENTS["compare"]), "cells", CELL),
        (("models", "list"), "entries", MODEL),
        (("models", "list", "--kind", "loras"), "entries", PART),
        (("models", "verify", "intarsia-tiny"), "files", {"file", "bytes", "state"}),
    ],
    ids=["compare", "models", "loras", "verify"],
)
def test_what_lists_hold_is_on_the_page(call, arguments, key, inner):
    listed = json.loads(call(*arguments, "--json").stdout)[key]
    assert all(set(each) == inner for each in listed)
    assert all(f"`{name}`" in section("What each command prints") for name in inner)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_an_error_of_any_command_is_json_of_one_shape(call, command):
    done = call(*command.split(), "--no-such-option", "--json")
    made = json.loads(done.stdout)
    assert set(made) == {"schema", "error"}
    assert made["schema"] == JSON_SCHEMA
    assert made["error"]["kind"] == "usage"
    assert made["error"]["exit_code"] == done.returncode == 2
    assert done.stderr == f"intarsia: {made['error']['message']}\n"


def test_the_kinds_of_errors_are_those_of_the_page():
    listed = {kind for kind, _ in ROW.findall(section("Errors"))}
    assert listed - {"kind"} == {"usage", "request", "system", *cli._KINDS.values()}
