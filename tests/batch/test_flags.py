"""Every flag of every ``intarsia batch`` command reaches what it is for, and nothing else: one table for all."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import intarsia.batch
from intarsia.batch import live
from intarsia.cli import app
from intarsia.commands import streams
from intarsia.schedulers import table_json

# Options of a request, for all rows. Flag → its value, and the fields that it sets.
TEXTS = {
    "--mask-blur": "7", "--mask-dilate": "8", "--mask-min-area": "9", "--mask-padding": "whole",
    "--mask-source": "alpha", "--masked-content": "fill", "--extend": "left=8", "--width": "64", "--height": "64",
    "--prompt": "a cat", "--negative-prompt": "a dog", "--clip-skip": "2", "--prompt-syntax": "plain",
    "--samples": "2", "--steps": "9", "--guidance-scale": "3", "--strength": "0.5", "--scheduler": "heun",
    "--spacing": "karras", "--algorithm-type": "dpmsolver", "--solver-order": "1", "--solver-type": "heun",
    "--final-sigmas-type": "zero", "--eta": "0.5", "--token-merging": "yes", "--model": "tiny", "--vae": "soft",
    "--safety-action": "blur",
}  # fmt: skip
SWITCHES = (
    "mask-fill-holes", "invert-mask", "soft-mask", "color-match", "fit-output", "enhance-prompt", "karras-sigmas",
    "safety-checker",
)  # fmt: skip


def field(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


FIELDS: dict[str, tuple[str | None, dict[str, Any]]] = {
    **{flag: (text, {field(flag): text}) for flag, text in TEXTS.items()},
    **{f"--{name}": (None, {field(name): True}) for name in SWITCHES},
    **{f"--no-{name}": (None, {field(name): False}) for name in SWITCHES},
    "-p": ("a cat", {"prompt": "a cat"}),
    "-n": ("a dog", {"negative_prompt": "a dog"}),
    "-s": ("9", {"steps": "9"}),
    "-m": ("tiny", {"model": "tiny"}),
    "--size": ("64x128", {"width": 64, "height": 128}),
    "--embedding": ("old", {"embeddings": ["old"]}),
    "--table": ("own.json", {"table": "read from own.json"}),
    "--lora": ("ink:0.5", {"loras": [{"id": "ink", "strength": 0.5}]}),
    "--ip-adapter": ("look", {"ip_adapter": {"id": "look"}}),
    "--ip-adapter-image": ("a.png", {"ip_adapter": {"id": "look", "image": "a.png"}}),
    "--ip-adapter-scale": ("0.5", {"ip_adapter": {"id": "look", "scale": "0.5"}}),
    "--set": ("steps=9", {"steps": 9}),
}
ROWS = {flag: (value, {"request": fields}) for flag, (value, fields) in FIELDS.items()} | {
    "--endpoint": ("pony", {"endpoint": "pony"}),
    "-e": ("pony", {"endpoint": "pony"}),
    "--limit": ("3", {"limit": 3}),
    "--progress": ("5", {"every": 5.0}),
}
# Flag → its value, and what differs by it in the call of the library.
RUN = {
    **ROWS,
    "MANIFEST": ("m.csv", {"place": Path("m.csv")}),
    "--images": ("photos", {"place": intarsia.batch.Pair(Path("photos"), Path("masks"))}),
    "--masks": ("masks", {"place": intarsia.batch.Pair(Path("photos"), Path("masks"))}),
    "--out": ("elsewhere", {"out": Path("elsewhere")}),
    "-o": ("elsewhere", {"out": Path("elsewhere")}),
    "--output": ("elsewhere", {"out": Path("elsewhere")}),
    "--defaults": ("d.toml", {"defaults": "d.toml"}),
    "--allow-extra": (None, {"allow_extra": True}),
    "--seed": ("7", {"seed": 7}),
    "--shard": ("2/3", {"shard": (2, 3)}),
    "--workers": ("5", {"workers": 5}),
    "--threads": ("6", {"threads": 6}),
    "--slots": ("9", {"slots": 9}),
    "--deterministic": (None, {}),
    "--fast": (None, {"deterministic": False}),
    "--max-errors": ("5%", {"max_errors": "5%"}),
    "--fail-fast": (None, {"fail_fast": True}),
    "--format": ("webp", {"format": "webp"}),
    "--compression": ("8", {"compression": 8}),
    "--metadata": (None, {}),
    "--no-metadata": (None, {"metadata": False}),
    "--runner": ("ray", {"runner": "ray"}),
    "--backend": ("null", {"backend": "null"}),
    "--device": ("cuda:1", {"device": "cuda:1"}),
    "--kernels": ("plain", {"kernels": "plain"}),
    "--capture": ("off", {"capture": "off"}),
    "--quality": ("50", {"quality": 50}),
    "--strip": (None, {"strip": True}),
    "--thumbnails": (None, {"thumbnails": True}),
    "--no-thumbnails": (None, {"thumbnails": False}),
    "--quiet": (None, {"talk": (True, False)}),
    "-q": (None, {"talk": (True, False)}),
    "--verbose": (None, {"talk": (False, True)}),
    "-v": (None, {"talk": (False, True)}),
    "--precision": ("fp8", {"precision": "fp8"}),
    "--memory": ("6GiB", {"memory": "6GiB"}),
    "--weights": ("w.toml", {"weights": "w.toml"}),
    "--allow-private-urls": (None, {"allow_private_urls": True}),
    "--max-pixels": ("1000", {"max_pixels": 1000}),
    "--json": (None, {"json": True}),
}
OF_VALIDATE = (
    "MANIFEST", "--images", "--masks", "--out", "-o", "--output", "--defaults", "--allow-extra", "--threads",
    "--weights", "--allow-private-urls", "--max-pixels", "--json", "--quiet", "-q", "--verbose", "-v", *ROWS,
)  # fmt: skip
FLAGS = {
    "run": RUN,
    "retry": RUN | {"--class": ("io, memory", {"classes": frozenset({"io", "memory"})})},
    "validate": {name: RUN[name] for name in OF_VALIDATE}
    | {"--decode": (None, {}), "--no-decode": (None, {"decode": False})},
    "report": {"OUT": ("elsewhere", {"out": Path("elsewhere")}), "--json": (None, {"json": True})},
    "sheet": {
        "OUT": ("elsewhere", {"out": Path("elsewhere")}),
        "--picture": ("all.png", {"overview": Path("all.png")}),
        "--first": ("9", {"first": 9}),
        "--workers": ("3", {"workers": 3}),
        "--progress": ("5", {"every": 5.0}),
        "--json": (None, {"json": True}),
    },
    "merge": {
        "OUT": ("elsewhere", {"out": Path("elsewhere")}),
        "OTHERS": ("more", {"others": [Path("more")]}),
        "--json": (None, {"json": True}),
    },
}
GIVEN = {
    "run": {"MANIFEST": "m.jsonl", "--out": "out"},
    "retry": {"MANIFEST": "m.jsonl", "--out": "out"},
    "validate": {"MANIFEST": "m.jsonl"},
    "report": {"OUT": "out"},
    "sheet": {"OUT": "out"},
    "merge": {"OUT": "out"},
}
"""What each command is called with besides the flag in question."""


def spellings() -> Iterator[tuple[str, str]]:
    """Each command with each way to write each of its flags and arguments, but for --help."""
    batch = typer.main.get_command(app).commands["batch"]
    for name, command in batch.commands.items():
        for parameter in command.params:
            is_argument = parameter.param_type_name == "argument"
            for flag in [parameter.name.upper()] if is_argument else [*parameter.opts, *parameter.secondary_opts]:
                yield name, flag


SPELLINGS = [found for found in spellings() if found[1] != "--help"]


def call(monkeypatch: pytest.MonkeyPatch, command: str, given: Mapping[str, str | None]) -> dict[str, Any]:
    """What reaches the library, and whether JSON comes back."""
    reached = {}

    def run(
        place: Path, out: Path, options: intarsia.batch.Options, watch: object, **more: Any
    ) -> intarsia.batch.RunStats:
        reached.update(place=place, out=out, **asdict(options), **more)
        reached["talk"] = (streams._talk.quiet, streams._talk.verbose)
        return intarsia.batch.RunStats()

    def validate(
        place: Path, options: intarsia.batch.Options, *, decode: bool, out: Path | None, watch: object
    ) -> intarsia.batch.Findings:
        reached.update(place=place, decode=decode, out=out, **asdict(options))
        reached["talk"] = (streams._talk.quiet, streams._talk.verbose)
        return intarsia.batch.Findings(1, ())

    def sheet(out: Path, *, watch: object, **more: Any) -> SimpleNamespace:
        reached.update(out=out, **more)
        return SimpleNamespace(path=out / "sheet.html", rows=1, pages=1, unreadable=0, warnings=())

    class Lines(live.ProgressLines):
        def __init__(self, say: Callable[[str], None], seconds: float, *more: str) -> None:
            reached["every"] = seconds
            super().__init__(say, seconds, *more)

    def report(out: Path) -> dict[str, Any]:
        reached.update(out=out)
        lists = {"errors": {}, "failed": [], "runs": {}, "running": [], "warnings": []}
        return {"rows": 1, "ok": 1, "error": 0, "skipped": 0, "cancelled": 0, **lists}

    def merge(out: Path, others: list[Path], warn: object) -> int:
        reached.update(out=out, others=others)
        return 1

    stand_ins = {"run": run, "retry": run, "validate": validate, "sheet": sheet, "merge": merge}
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(intarsia.batch, name, stand_in)
    monkeypatch.setattr(live, "ProgressLines", Lines)
    monkeypatch.setattr(table_json, "read_table", lambda path: f"read from {path}")
    monkeypatch.setattr(sys.modules["intarsia.batch.ledger.report"], "report", report)
    positional = [value for name, value in given.items() if name.isupper()]
    named = [part for name, value in given.items() if not name.isupper() for part in (name, value) if part is not None]
    done = CliRunner().invoke(app, ["batch", command, *named, *positional], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return reached | {"json": done.stdout.startswith("{") and json.loads(done.stdout) is not None}


@pytest.mark.parametrize(("command", "flag"), SPELLINGS, ids=[" ".join(found) for found in SPELLINGS])
def test_a_flag_reaches_the_library_and_changes_nothing_else(monkeypatch, command, flag):
    assert flag in FLAGS[command], f"{command} {flag} has no entry in the table of this test"
    value, changes = FLAGS[command][flag]
    plain = call(monkeypatch, command, GIVEN[command])
    given = {**GIVEN[command], flag: value}
    if flag in ("--images", "--masks"):
        given |= {"--images": "photos", "--masks": "masks"}
        del given["MANIFEST"]
    if flag in ("-o", "--output") and "--out" in given:
        del given["--out"]
    if flag.startswith("--ip-adapter-"):
        given |= {"--ip-adapter": "look"}
    assert call(monkeypatch, command, given) == plain | changes


@pytest.mark.parametrize("command", ["run", "retry", "validate"])
def test_without_flags_the_librarys_defaults_hold(monkeypatch, command):
    plain = call(monkeypatch, command, GIVEN[command])
    plain["request"] = plain["request"] or None  # no fields at all, in either form
    defaults = asdict(intarsia.batch.Options())
    assert {name: plain[name] for name in defaults} == defaults
    quiet = {"out": Path("out"), "talk": (False, False), "every": 30.0}
    others = {"run": quiet, "retry": quiet | {"classes": None}}
    others["validate"] = quiet | {"out": None, "decode": True}
    assert {name: value for name, value in plain.items() if name not in defaults} == {
        "place": Path("m.jsonl"), "json": False, **others[command],
    }  # fmt: skip


def test_options_without_a_flag_are_few():
    """What a program may set and the command may not: WebP without loss."""
    flags = {name for _, changes in RUN.values() for name in changes}
    assert set(asdict(intarsia.batch.Options())) - flags == {"lossless"}
