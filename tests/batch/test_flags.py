"""Every flag of every ``intarsia batch`` command reaches what it is for, and nothing else: one table for all."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import intarsia.batch
from intarsia.batch import live
from intarsia.batch.live import ProgressLines
from intarsia.cli import app
from intarsia.commands import streams

# Flag → its value, and what differs by it in the call of the library.
RUN = {
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
# Options of a request under the name of its field; what else they are called, or make, is below.
TEXTS = (
    "mask-blur", "mask-dilate", "mask-min-area", "mask-source", "masked-content", "width", "height", "prompt",
    "negative-prompt", "clip-skip", "prompt-syntax", "samples", "steps", "guidance-scale", "strength", "scheduler",
    "algorithm-type", "solver-order", "solver-type", "final-sigmas-type", "eta", "token-merging", "model", "vae",
    "safety-action", "spacing", "mask-padding",
)  # fmt: skip
SWITCHES = (
    "mask-fill-holes", "invert-mask", "soft-mask", "color-match", "fit-output", "enhance-prompt", "karras-sigmas",
    "safety-checker",
)  # fmt: skip
OF_REQUEST: dict[str, tuple[str | None, dict[str, Any]]] = {
    **{f"--{name}": ("7", {"request": {name.replace("-", "_"): "7"}}) for name in TEXTS},
    **{f"--{name}": (None, {"request": {name.replace("-", "_"): True}}) for name in SWITCHES},
    **{f"--no-{name}": (None, {"request": {name.replace("-", "_"): False}}) for name in SWITCHES},
    "-p": ("7", {"request": {"prompt": "7"}}),
    "-n": ("7", {"request": {"negative_prompt": "7"}}),
    "-s": ("7", {"request": {"steps": "7"}}),
    "-m": ("7", {"request": {"model": "7"}}),
    "--size": ("64x72", {"request": {"width": 64, "height": 72}}),
    "--embedding": ("sun", {"request": {"embeddings": ["sun"]}}),
    "--lora": ("ink:0.5", {"request": {"loras": [{"id": "ink", "strength": 0.5}]}}),
    "--ip-adapter": ("plus", {"request": {"ip_adapter": {"id": "plus"}}}),
    "--set": ("steps=4", {"request": {"steps": 4}}),
}
RUN |= OF_REQUEST | {
    "--endpoint": ("pony", {"endpoint": "pony"}),
    "-e": ("pony", {"endpoint": "pony"}),
    "--limit": ("12", {"limit": 12}),
    "--progress": ("5", {"every": 5.0}),
}
ELSEWHERE = ("--ip-adapter-image", "--ip-adapter-scale", "--extend", "--table")
"""Options that make nothing alone, or of files and texts: their own tests have them."""

OF_VALIDATE = (
    "MANIFEST", "--images", "--masks", "--out", "-o", "--output", "--defaults", "--allow-extra", "--threads",
    "--weights", "--allow-private-urls", "--max-pixels", "--json", "--quiet", "-q", "--verbose", "-v",
    "--endpoint", "-e", "--limit", "--progress", *OF_REQUEST,
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
        "--first": ("7", {"first": 7}),
        "--workers": ("5", {"workers": 5}),
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


SPELLINGS = [found for found in spellings() if found[1] not in ("--help", *ELSEWHERE)]


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

    def report(out: Path) -> dict[str, Any]:
        reached.update(out=out)
        lists = {"running": [], "errors": {}, "failed": [], "runs": {}, "warnings": []}
        return {"rows": 1, "ok": 1, "error": 0, "skipped": 0, "cancelled": 0, **lists}

    def merge(out: Path, others: list[Path], warn: object) -> int:
        reached.update(out=out, others=others)
        return 1

    def sheet(out: Path, *, watch: object, **more: Any) -> intarsia.batch.Sheet:
        reached.update(out=out, **more)
        return intarsia.batch.Sheet(path=out / "sheet.html", rows=1, pages=1, unreadable=0)

    def lines(say: object, every: float, *more: str) -> ProgressLines:
        reached["every"] = every
        return ProgressLines(lambda line: None, every, *more)

    monkeypatch.setattr(live, "ProgressLines", lines)
    library = (("run", run), ("retry", run), ("validate", validate), ("merge", merge), ("sheet", sheet))
    for name, stand_in in library:
        monkeypatch.setattr(intarsia.batch, name, stand_in)
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
    assert call(monkeypatch, command, given) == plain | changes


@pytest.mark.parametrize("command", ["run", "retry", "validate"])
def test_without_flags_the_librarys_defaults_hold(monkeypatch, command):
    plain = call(monkeypatch, command, GIVEN[command])
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
