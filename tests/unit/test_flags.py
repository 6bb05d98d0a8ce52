"""Every flag of every command but those of ``batch`` and ``serve``: set, it reaches the library function it is for.

A flag without a row here fails: what a command forgets to pass on is otherwise noticed by nobody.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
import typer.main

from intarsia import api, cli, endpoints, schedulers
from intarsia.backends.onnx import sources
from intarsia.commands import compare_files, outputs, streams
from intarsia.commands.options import EngineOptions, MessageOptions
from intarsia.commands.request_options import (
    ImageOptions,
    MaskOptions,
    ModelOptions,
    PromptOptions,
    SamplingOptions,
    SeedOptions,
)
from intarsia.comparing import running
from intarsia.comparing.axes import Axis
from intarsia.comparing.running import Settings
from intarsia.endpoints import answer as reply
from intarsia.engine import engine as engines
from intarsia.engine import request_from, resolve
from intarsia.engine.field_names import SYNONYMS
from intarsia.engine.noise import MAX_SEED
from intarsia.engine.request import InpaintRequest
from intarsia.errors import IntarsiaError
from intarsia.images import save as output
from intarsia.images.access import Access
from intarsia.registry import files as weights
from intarsia.registry import registry
from intarsia.token_merging import TokenMerging
from tests.tiny_files import SD1_LORA, SD1_UNET, SD2_TEXT, SD2_UNET, VAE, checkpoint, write

REGISTRY = """
schema = 1
default = "nothing"
[models.nothing]
family = "sd15-inpaint"
path = "nothing"
[loras.ink]
path = "ink.safetensors"
"""
ASKED = {"init_image": "photo.png", "mask_image": "mask.png"}
OWN_TABLE = schedulers.table_to_json(schedulers.table("heun", 3))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "model_index.json").write_text("{}")
    write(tmp_path / "ink.safetensors", SD1_LORA)
    for name in ("weights.toml", "other.toml"):
        (tmp_path / name).write_text(REGISTRY)
    (tmp_path / "request.json").write_text(json.dumps(ASKED))
    (tmp_path / "table.json").write_text(json.dumps(OWN_TABLE))
    monkeypatch.setenv("INTARSIA_WEIGHTS", str(tmp_path / "weights.toml"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Seen(dict):
    """What reached the library, by name."""

    def engine(self, backend: str = "auto", device: str = "auto", weights: Path | None = None, **others: Any) -> Self:
        self |= {"backend": backend, "device": device, "weights": weights, **others}
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def stream(self, request: InpaintRequest) -> Iterator[Any]:
        self |= {name: getattr(request, name) for name in type(request).model_fields}
        return iter(())


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, place: Path) -> Seen:
    return Seen()


def run(*arguments: object) -> Any:
    return cli.app([*map(str, arguments)], standalone_mode=False)


GLOBAL = {"version", "quiet", "verbose", "install_completion", "show_completion"}


def walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, set[str]]]:
    """(path, parameter names) of every command that does something."""
    if path[:1] in (("batch",), ("serve",)):
        return
    if not path:
        assert {parameter.name for parameter in command.params} == GLOBAL
    names = {parameter.name for parameter in command.params} - {"help"} if path else set()
    children = getattr(command, "commands", {})
    if names or not children:
        yield " ".join(path), names
    for name, child in children.items():
        yield from walk(child, (*path, name))


ENGINE = {
    "backend": (["--backend", "null"], "backend", "null"),
    "device": (["--device", "cuda:1"], "device", "cuda:1"),
    "kernels": (["--kernels", "plain"], "kernels", "plain"),
    "capture": (["--capture", "off"], "capture", "off"),
    "precision": (["--precision", "fp8"], "precision", "fp8"),
    "memory": (["--memory", "6GiB"], "memory", "6GiB"),
    "weights": (["--weights", "other.toml"], "weights", Path("other.toml")),
    "allow_private_urls": (["--allow-private-urls"], "allow_private_urls", True),
    "max_pixels": (["--max-pixels", 5000], "max_pixels", 5000),
}
MESSAGES = {"quiet": (["-q"], "talk", (True, False)), "verbose": (["-v"], "talk", (False, True))}
LEFT_AND_TOP = {"left": 256, "top": 64, "right": 0, "bottom": 0, "overlap": 16}
LOOK = {"id": "look", "scale": 1.0, "image": None}
INPAINT = {
    "image": ([], "init_image", "photo.png"),
    "mask": ([], "mask_image", "mask.png"),
    "init_image": (["--image", "other.png"], "init_image", "other.png"),
    "mask_image": (["--mask", "other.png"], "mask_image", "other.png"),
    "mask_blur": (["--mask-blur", 7], "mask_blur", 7.0),
    "mask_dilate": (["--mask-dilate", 8], "mask_dilate", 8),
    "extend": (["--extend", "left=256,top=64"], "extend", LEFT_AND_TOP),
    "soft_mask": (["--soft-mask"], "soft_mask", True),
    "mask_fill_holes": (["--mask-fill-holes"], "mask_fill_holes", True),
    "mask_min_area": (["--mask-min-area", "0.5%"], "mask_min_area", "0.5%"),
    "mask_padding": (["--mask-padding", 64], "mask_padding", 64),
    "mask_source": (["--mask-source", "alpha"], "mask_source", "alpha"),
    "invert_mask": (["--invert-mask"], "invert_mask", True),
    "masked_content": (["--masked-content", "fill"], "masked_content", "fill"),
    "color_match": (["--color-match"], "color_match", True),
    "size": (["--size", "128x64"], ("width", "height"), (128, 64)),
    "width": (["--width", 128], "width", 128),
    "height": (["--height", 64], "height", 64),
    "fit_output": (["--fit-output"], "fit_output", True),
    "prompt": (["-p", "a cat"], "prompt", "a cat"),
    "negative_prompt": (["-n", "a dog"], "negative_prompt", "a dog"),
    "enhance_prompt": (["--enhance-prompt"], "enhance_prompt", True),
    "clip_skip": (["--clip-skip", 3], "clip_skip", 3),
    "prompt_syntax": (["--prompt-syntax", "plain"], "prompt_syntax", "plain"),
    "embeddings": (["--embedding", "ugly", "--embedding", "old"], "embeddings", ("ugly", "old")),
    "model": (["-m", "mine"], "model", "mine"),
    "samples": (["--samples", 3], "samples", 3),
    "steps": (["--steps", 9], "steps", 9),
    "strength": (["--strength", 0.25], "strength", 0.25),
    "guidance_scale": (["--guidance-scale", 0], "guidance_scale", 0.0),
    "scheduler": (["--scheduler", "heun"], "scheduler", "heun"),
    "karras_sigmas": (["--no-karras-sigmas"], "karras_sigmas", False),
    "algorithm_type": (["--algorithm-type", "dpmsolver"], "algorithm_type", "dpmsolver"),
    "spacing": (["--spacing", "exponential"], "spacing", "exponential"),
    "solver_order": (["--solver-order", 3], "solver_order", 3),
    "solver_type": (["--solver-type", "heun"], "solver_type", "heun"),
    "final_sigmas_type": (["--final-sigmas-type", "sigma_min"], "final_sigmas_type", "sigma_min"),
    "eta": (["--eta", 0.5], "eta", 0.5),
    "table": (["--table", "table.json"], "table", OWN_TABLE),
    "token_merging": (["--token-merging", "yes"], "token_merging", True),
    "seed": (["--seed", MAX_SEED], "seed", MAX_SEED),
    "loras": (["--lora", "ink:0.5"], "loras", ({"id": "ink", "strength": 0.5},)),
    "vae": (["--vae", "soft"], "vae", "soft"),
    "ip_adapter": (["--ip-adapter", "look"], "ip_adapter", LOOK),
    "ip_adapter_image": (
        ["--ip-adapter", "look", "--ip-adapter-image", "b.png"], "ip_adapter", LOOK | {"image": "b.png"},
    ),
    "ip_adapter_scale": (
        ["--ip-adapter", "look", "--ip-adapter-scale", 0.5], "ip_adapter", LOOK | {"scale": 0.5},
    ),
    "safety_checker": (["--safety-checker"], "safety_checker", True),
    "safety_action": (["--safety-action", "blur"], "safety_action", "blur"),
    "set_": (["--set", "mask_blur=7", "--set", "masked_content=fill"], ("mask_blur", "masked_content"), (7.0, "fill")),
    "out": (["-o", "x.png"], "paths", [Path("x.png")]),
    "format": (["--format", "webp"], "paths", [Path("intarsia-intarsia.webp")]),
    "metadata": (["--no-metadata"], "metadata", False),
    "strip": (["--strip"], "strip", True),
    "from_": (["--from", "old.png"], "steps", 9),
    "quality": (["--quality", 50, "-o", "x.jpg"], ("quality", "paths"), (50, [Path("x.jpg")])),
    "overwrite": (["--overwrite"], ("overwrite", "checked"), (True, True)),
    "as_json": (["--json"], "as_json", True),
    **ENGINE,
    **MESSAGES,
}  # fmt: skip
DEFAULTS = {
    **{name: field.default for name, field in InpaintRequest.model_fields.items()},
    "init_image": "photo.png", "mask_image": "mask.png",
    "paths": [Path("intarsia-intarsia.png")], "metadata": True, "quality": None, "strip": False,
    "overwrite": False, "checked": False,
    "backend": "auto", "device": "auto", "kernels": "auto", "capture": "auto", "precision": None,
    "memory": None, "weights": None,
    "allow_private_urls": False, "max_pixels": None, "as_json": False, "talk": (False, False),
}  # fmt: skip


def plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    if isinstance(value, schedulers.Table):
        return schedulers.table_to_json(value)
    return value.model_dump() if hasattr(value, "model_dump") else value


def look(seen: Seen, names: str | Sequence[str]) -> Any:
    return tuple(plain(seen[name]) for name in names) if isinstance(names, tuple) else plain(seen[names])


@pytest.fixture
def inpainted(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Seen]:
    """Runs ``intarsia inpaint`` and gives what reached the library."""
    from intarsia.commands import inpaint

    monkeypatch.setattr(engines, "Engine", seen.engine)
    monkeypatch.setattr(output, "check_outputs", lambda paths, overwrite: seen.update(checked=overwrite))
    monkeypatch.setattr(inpaint, "result_of", list)

    def write(result: object, targets: outputs.Targets, output: outputs.OutputOptions) -> list[str]:
        seen.update(paths=targets.paths, metadata=output.metadata, quality=output.quality, overwrite=output.overwrite)
        seen["talk"] = (streams._talk.quiet, streams._talk.verbose)
        seen["strip"] = output.strip
        return []

    def past(path: str) -> request_from.PastRequest:
        assert path == "old.png"
        return request_from.PastRequest(path=path, fields={"steps": 9})

    monkeypatch.setattr(request_from, "read_past_request", past)
    monkeypatch.setattr(inpaint, "_about_files", lambda past, result: ())
    monkeypatch.setattr(inpaint, "_write", write)
    monkeypatch.setattr(inpaint, "_report", lambda result, paths, warnings, as_json: seen.update(as_json=as_json))

    def run_inpaint(*arguments: object) -> Seen:
        given = {"--image", "--mask"} & set(map(str, arguments))
        positional = [] if given else ["photo.png", "mask.png"]
        rest = ["--mask", "mask.png"] if given == {"--image"} else ["--image", "photo.png"] if given else []
        run("inpaint", *positional, *arguments, *rest)
        return seen

    return run_inpaint


@pytest.mark.parametrize("flag", INPAINT)
def test_a_flag_of_inpaint_reaches_the_library_and_changes_nothing_else(inpainted, flag):
    arguments, names, expected = INPAINT[flag]
    made = inpainted(*arguments)
    assert look(made, names) == expected
    changed = set(names if isinstance(names, tuple) else [names]) | ({"paths"} if flag == "samples" else set())
    others = set(DEFAULTS) - changed
    assert {name: plain(made[name]) for name in others} == {name: DEFAULTS[name] for name in others}


def test_every_field_of_a_request_has_an_option(inpainted):
    options = {name for name in INPAINT if name not in ENGINE}
    assert set(InpaintRequest.model_fields) <= options
    help_of = {parameter.name: parameter.help for parameter in command_of("inpaint").params}
    for name, field in InpaintRequest.model_fields.items():
        if type(field.default) in (int, float) and field.default:
            assert f"default {field.default:g}" in help_of[name], name


def command_of(name: str) -> Any:
    return typer.main.get_command(cli.app).commands[name]


def further_names() -> Iterator[tuple[str, str, str]]:
    """Each field with each name that another tool has for it, as an option and as it is written in its scripts."""
    for field, names in SYNONYMS.items():
        for name in names:
            yield field, name, "--" + name.replace("_", "-")
            yield field, name, "--" + name


@pytest.mark.parametrize(("field", "name", "option"), sorted(set(further_names())))
def test_names_of_other_tools_set_the_same_field(inpainted, field, name, option):
    arguments, names, expected = INPAINT[field]
    renamed = [option if str(part).startswith("-") and not str(part)[1:].isdigit() else part for part in arguments]
    if field == "karras_sigmas":
        renamed = [option.replace("--", "--no-", 1)]
    assert look(inpainted(*renamed), names) == expected


@pytest.mark.parametrize("text", ["-1", "random", " -1 "])
def test_a_seed_may_be_left_to_chance(inpainted, text):
    assert inpainted("--seed", text)["seed"] is None


GRID = {
    "axis": (["--axis", "steps=4,5", "--axis", "strength=1"], "axes", [("steps", (4, 5)), ("strength", (1.0,))]),
    "out": (["-o", "x.webp"], "paths", [Path("x.webp"), Path("x.csv"), Path("x.jsonl")]),
    "cell_size": (["--cell-size", 100], "cell_size", 100),
    "keep": (["--keep", "full"], "keep", Path("full")),
    "overwrite": (["--overwrite"], "overwrite", (True, True)),
    "as_json": (["--json"], "as_json", True),
}
GROUPS = (
    ImageOptions, MaskOptions, PromptOptions, SeedOptions, SamplingOptions, ModelOptions, EngineOptions, MessageOptions,
)  # fmt: skip
SHARED = [field.name for group in GROUPS for field in dataclasses.fields(group)]
COMPARE = {**{name: INPAINT[name] for name in SHARED}, **GRID}


@pytest.fixture
def compared(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Seen]:
    """Runs ``intarsia compare`` and gives what reached the library."""
    from intarsia.commands import compare

    def run_comparison(engine: object, fields: dict[str, Any], axes: list[Axis], settings: Settings) -> SimpleNamespace:
        request = InpaintRequest(**fields)
        seen.update({name: getattr(request, name) for name in InpaintRequest.model_fields})
        seen.update(axes=[(axis.name, axis.values) for axis in axes])
        seen.update(cell_size=settings.cell_size, keep=settings.keep, kept_over=settings.overwrite)
        seen["talk"] = (streams._talk.quiet, streams._talk.verbose)
        return SimpleNamespace(failed=())

    def write(files: compare_files.Files, comparison: object, overwrite: bool) -> None:
        seen.update(paths=files.paths, overwrite=(overwrite, seen["kept_over"]))

    monkeypatch.setattr(engines, "Engine", seen.engine)
    monkeypatch.setattr(running, "run_comparison", run_comparison)
    monkeypatch.setattr(compare_files.Files, "write", write)
    monkeypatch.setattr(compare, "_report", lambda comparison, files, as_json: seen.update(as_json=as_json))

    def run_compare(*arguments: object) -> Seen:
        given = {"--image", "--mask"} & set(map(str, arguments))
        positional = [] if given else ["photo.png", "mask.png"]
        rest = ["--mask", "mask.png"] if given == {"--image"} else ["--image", "photo.png"] if given else []
        run("compare", *positional, *arguments, *rest)
        return seen

    return run_compare


@pytest.mark.parametrize("flag", COMPARE)
def test_a_flag_of_compare_reaches_the_library(compared, flag):
    arguments, names, expected = COMPARE[flag]
    assert look(compared(*arguments), names) == expected


def test_every_field_of_a_request_has_an_option_of_compare():
    options = {parameter.name for parameter in command_of("compare").params}
    assert set(InpaintRequest.model_fields) <= options


def test_axes_stand_in_the_order_of_the_command_line_whatever_their_options_are_called(compared):
    call = ("--sampling-steps", "4,5", "--axis", "seed=1,2", "--strength", "0.5", "--sampler", "euler,ddim")
    axes = [("steps", (4, 5)), ("seed", (1, 2)), ("scheduler", ("euler", "ddim"))]
    assert compared(*call)["axes"] == axes
    assert compared(*call[-2:], *call[:-2])["axes"] == [axes[2], axes[0], axes[1]]


REQUEST = {
    "file": ([], "payload", ASKED),
    "out": (["-o", "x"], "out", Path("x")),
    "endpoint": (["-e", "pony"], "endpoint", "pony"),
    "as_json": (["--json"], "payload", ASKED),
    **ENGINE,
    **MESSAGES,
}


@pytest.mark.parametrize("flag", REQUEST)
def test_a_flag_of_request_reaches_the_engine_or_the_answer(seen, monkeypatch, capsys, flag):
    def answer(engine: object, payload: dict[str, Any], endpoint: str | None, out: Path) -> reply.Answer:
        seen.update(payload=payload, endpoint=endpoint, out=out)
        seen["talk"] = (streams._talk.quiet, streams._talk.verbose)
        return reply.Answer({"status": "success"})

    monkeypatch.setattr(engines, "Engine", seen.engine)
    monkeypatch.setattr(reply, "answer", answer)
    arguments, name, expected = REQUEST[flag]
    run("request", "request.json", *arguments)
    assert look(seen, name) == expected
    assert json.loads(capsys.readouterr().out) == {"status": "success"}


PLAN = {
    "file": ([], "init_image", "photo.png"),
    "as_json": (["--json"], "init_image", "photo.png"),
    "endpoint": (["-e", "realtime"], "endpoint", "realtime"),
    "weights": (["--weights", "other.toml"], "weights", Path("other.toml")),
    "precision": (["--precision", "fp8"], "precision", "fp8"),
    "allow_private_urls": (["--allow-private-urls"], "access", (True, True)),
    "max_pixels": (["--max-pixels", 5000], "max_pixels", 5000),
}


@pytest.mark.parametrize("flag", PLAN)
def test_a_flag_of_plan_reaches_the_registry_or_the_request(seen, monkeypatch, flag):
    class Registry(registry.Registry):
        def __init__(self, weights: Path | None, precision: str | None) -> None:
            seen.update(weights=weights, precision=precision)
            super().__init__(weights, precision)

    def resolved(request: InpaintRequest, registry: object, access: Access) -> SimpleNamespace:
        seen.update(init_image=request.init_image, access=(access.allow_paths, access.allow_private_urls))
        seen["max_pixels"] = access.max_pixels
        return SimpleNamespace(plan=SimpleNamespace(to_dict=dict), warnings=())

    def read(body: dict[str, Any], endpoint: str, registry: object) -> SimpleNamespace:
        seen["endpoint"] = endpoint
        return SimpleNamespace(request=SimpleNamespace(init_image=body["init_image"]), warnings=())

    monkeypatch.setattr(registry, "Registry", Registry)
    monkeypatch.setattr(resolve, "resolve", resolved)
    monkeypatch.setattr(endpoints, "read", read)
    arguments, name, expected = PLAN[flag]
    run("plan", "request.json", *arguments)
    assert seen[name] == expected
    assert seen["access"][0] is (flag != "endpoint"), "documented requests read no files"


SCHEMA = {
    "endpoint": (["-e", "pony"], lambda made: made["request"]["title"] == "intarsia request: pony"),
    "openapi": (["--openapi"], lambda made: made["openapi"] == "3.1.0"),
    "as_json": (["--json"], lambda made: "pony" in made),
}


@pytest.mark.parametrize("flag", SCHEMA)
def test_a_flag_of_schema_chooses_what_is_printed(capsys, flag):
    arguments, is_right = SCHEMA[flag]
    run("schema", *arguments)
    assert is_right(json.loads(capsys.readouterr().out))


MODELS = {
    "models list": {
        "kind": (["--kind", "loras"], "ink\tevery family\tinstalled\tunknown\n"),
        "weights": (["--weights", "mine.toml"], "mine\tsd15\tmissing, default\tunknown\nnothing\t"),
        "as_json": (["--kind", "loras", "--json"], '{\n  "schema": 2,\n  "kind": "loras",'),
    },
    "models path": {
        "name": (["nothing"], "{place}/nothing\n"),
        "kind": (["--kind", "loras", "ink"], "{place}/ink.safetensors\n"),
        "weights": (["--weights", "folder/other.toml"], "folder/nothing\n"),
        "as_json": (["nothing", "--json"], '{\n  "schema": 2,\n  "kind": "models",\n  "id": "nothing",'),
    },
    "models verify": {
        "name": (["other"], "ok\t3\tink"),
        "kind": (["--kind", "loras", "pinned"], "ok\t"),
        "weights": (["--weights", "pins.toml"], "ok\t3\tink"),
        "as_json": (["other", "--json"], '{\n  "schema": 2,\n  "kind": "models",\n  "id": "other",'),
    },
}


@pytest.mark.parametrize(("command", "flag"), [(command, flag) for command, rows in MODELS.items() for flag in rows])
def test_a_flag_of_models_changes_what_is_listed_or_verified(place, capsys, command, flag):
    pin = f'"ink" = {{bytes = 3, sha256 = "{hashlib.sha256(b"ink").hexdigest()}"}}\n'
    (place / "nothing" / "ink").write_bytes(b"ink")
    model = 'schema = 1\ndefault = "{0}"\n[models.{0}]\nfamily = "sd15"\npath = "{1}"\n'
    (place / "mine.toml").write_text(model.format("mine", "gone"))
    (place / "pins.toml").write_text(model.format("pins", "nothing") + f"[models.pins.files]\n{pin}")
    (place / "folder" / "nothing").mkdir(parents=True)
    (place / "folder" / "nothing" / "model_index.json").write_text("{}")
    (place / "folder" / "other.toml").write_text(REGISTRY)
    with (place / "weights.toml").open("a") as file:
        file.write('[models.other]\nfamily = "sd15"\npath = "nothing"\n[models.other.files]\n' + pin)
        content = (place / "ink.safetensors").read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        file.write(
            '[loras.pinned]\npath = "ink.safetensors"\n[loras.pinned.files]\n'
            f'"ink.safetensors" = {{bytes = {len(content)}, sha256 = "{sha256}"}}\n'
        )
    arguments, expected = MODELS[command][flag]
    run(*command.split(), *arguments)
    assert capsys.readouterr().out.startswith(expected.format(place=place) if "{place}" in expected else expected)


MODEL, UNET, LORA, BASE = "m.safetensors", "u.safetensors", "pen.safetensors", "two.safetensors"
# Flag → arguments, and what is in the registry's file, or in what is printed, afterwards.
ADDING = {
    "models add": {
        "paths": ([MODEL, LORA], '[models.m]\nfamily = "sd15"'),
        "id": ([MODEL, "--id", "mine"], '[models.mine]\nfamily = "sd15"'),
        "copy": ([MODEL, "--copy"], 'path = "{place}/data/intarsia/models/models/m.safetensors"'),
        "family": ([LORA, "--family", "sd15-inpaint"], 'families = ["sd15-inpaint"]'),
        "prediction": ([BASE, "--prediction", "epsilon"], 'size = 512\nprediction = "epsilon"'),
        "vae": ([MODEL, "--vae", "soft"], 'vae = "soft"'),
        "text": ([UNET, "--text", "whole", "--vae", "soft"], 'text = "whole"'),
        "tokenizer": ([MODEL, "--tokenizer", "words"], 'tokenizer = "{place}/words"'),
        "image_encoder": (
            ["z-look.safetensors", "--image-encoder", "vision"],
            'image_encoder = "{place}/vision"',
        ),
        "default": ([MODEL, "--default"], 'default = "m"'),
        "weights": ([MODEL, "--weights", "new.toml"], "added\tm\t"),
        "as_json": ([MODEL, "--json"], '"id": "m",'),
    },
    "models scan": {
        "folder": (["."], "new\ta Stable Diffusion 1 checkpoint\tsd15"),
        "add": ([".", "--add"], "[models.m]"),
        "weights": ([".", "--weights", "other.toml"], "new\ta LoRA"),
        "as_json": ([".", "--json"], '"state": "new"'),
    },
    "models remove": {
        "name": (["nothing"], "removed\tnothing\n"),
        "kind": (["--kind", "loras", "ink"], "removed\tink\n"),
        "weights": (["nothing", "--weights", "other.toml"], "removed\tnothing\n"),
        "as_json": (["nothing", "--json"], '"id": "nothing",\n  "removed_copy": null'),
    },
}


@pytest.mark.parametrize(("command", "flag"), [(command, flag) for command, rows in ADDING.items() for flag in rows])
def test_a_flag_of_adding_is_in_the_entry_or_in_what_is_printed(place, monkeypatch, capsys, command, flag):
    monkeypatch.setenv("XDG_DATA_HOME", str(place / "data"))
    write(place / MODEL, checkpoint())
    write(place / "whole.safetensors", checkpoint(), fill=1)
    write(place / UNET, SD1_UNET)
    write(place / LORA, SD1_LORA, fill=1)
    write(place / BASE, checkpoint(SD2_UNET, SD2_TEXT))
    write(place / "soft.safetensors", VAE)
    write(place / "z-look.safetensors", {"image_proj.proj.weight": (8, 16), "ip_adapter.1.to_k_ip.weight": (8, 8)})
    (place / "vision").mkdir()
    (place / "vision" / "config.json").write_text('{"projection_dim": 16}')
    with (place / "weights.toml").open("a") as file:
        file.write('[vaes.soft]\npath = "soft.safetensors"\n')
        file.write('[models.whole]\nfamily = "sd15"\npath = "whole.safetensors"\n')

    arguments, expected = ADDING[command][flag]
    run(*command.split(), *arguments)
    output = capsys.readouterr().out + (place / "weights.toml").read_text()
    assert expected.replace("{place}", str(place)) in output
    if flag == "weights":
        assert (place / "weights.toml").read_text().endswith('path = "whole.safetensors"\n')
    if command == "models remove":
        removed = "[loras.ink]" if flag == "kind" else "[models.nothing]"
        changed = "other.toml" if flag == "weights" else "weights.toml"
        assert removed not in (place / changed).read_text()


SHOW = {
    "name": ([], "name", "HeunDiscreteScheduler"),
    "steps": (["-s", 5], "steps", 5),
    "karras": (["--karras"], "karras", True),
    "strength": (["--strength", 0.5], "strength", 0.5),
    "algorithm_type": (["--algorithm-type", "dpmsolver"], "algorithm_type", "dpmsolver"),
    "spacing": (["--spacing", "Exponential"], "spacing", "exponential"),
    "solver_order": (["--solver-order", 3], "solver_order", 3),
    "solver_type": (["--solver-type", "heun"], "solver_type", "heun"),
    "final_sigmas_type": (["--final-sigmas-type", "sigma_min"], "final_sigmas_type", "sigma_min"),
    "eta": (["--eta", 0.5], "eta", 0.5),
    "plot": (["--plot", "x.png"], "plot", Path("x.png")),
    "as_json": (["--json"], "as_json", True),
}
# Heun's method takes none of these.
TAKE_IT = {
    "solver_order": "DEISMultistepScheduler", "solver_type": "DPMSolverMultistepScheduler", "eta": "DDIMScheduler",
}  # fmt: skip
SCHEDULERS = {"as_json": None}


@pytest.mark.parametrize("flag", SHOW)
def test_a_flag_of_schedulers_show_reaches_the_table(seen, monkeypatch, capsys, flag):
    from intarsia.commands import schedulers as command

    def table(name: str, steps: int, **options: Any) -> Any:
        seen.update(name=name, steps=steps, **options)
        return original(name, 5)

    original = schedulers.table
    monkeypatch.setattr(schedulers, "table", table)
    monkeypatch.setattr(command, "_plot", lambda table, path: seen.update(plot=path))
    arguments, name, expected = SHOW[flag]
    scheduler = TAKE_IT.get(flag, "HeunDiscreteScheduler")
    run("schedulers", "show", scheduler, *arguments)
    seen["as_json"] = capsys.readouterr().out.startswith("{")
    assert seen[name] == expected
    defaults = {
        "name": scheduler, "steps": 21, "karras": False, "strength": 1.0, "algorithm_type": None,
        "as_json": False,
    }  # fmt: skip
    others = set(defaults) - {name}
    assert {key: seen[key] for key in others} == {key: defaults[key] for key in others}


def test_schedulers_lists_a_name_a_line_within_80_columns(capsys):
    run("schedulers")
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "short", "name", "evaluations", "noise", "Karras"]
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines[:18]] == list(schedulers.NAMES)
    table = {line.split()[0]: line[33:].split("  ") for line in lines[:18]}
    assert [cell.strip() for cell in table["HeunDiscreteScheduler"] if cell] == ["heun", "2N-1", "no", "yes"]
    assert lines[18] == ""
    said = " ".join(line.strip() for line in lines[18:])
    for name in schedulers.NAMES:
        assert schedulers.info(name).note in said


def test_schedulers_prints_all_of_them_as_json(capsys):
    for command in (("schedulers",), ("schedulers", "list")):
        run(*command, "--json")
        assert len(json.loads(capsys.readouterr().out)["schedulers"]) == 18


EXPORT = {
    "model": (["second"], "model", "second"),
    "vae": (["--vae", "other"], "vaes", "other"),
    "ip_adapter": (["--ip-adapter", "other"], "ip_adapters", "other"),
    "out": (["-o", "graphs"], "out", Path("graphs")),
    "dtype": (["--dtype", "float16"], "dtype", "float16"),
    "token_merging": (["--no-token-merging"], "merges", None),
    "again": (["--again"], "exported", True),
    "as_json": (["--json"], "printed", True),
    "weights": (["--weights", "other.toml"], "weights", Path("other.toml")),
}


@pytest.mark.parametrize("flag", EXPORT)
def test_a_flag_of_export_reaches_the_exporter(seen, place, monkeypatch, capsys, flag):
    pytest.importorskip("onnx", reason="needs onnx: pip install 'intarsia[export]'")
    folder = pytest.importorskip(
        "intarsia.export.folder", reason="needs torch and onnx: pip install 'intarsia[export]'"
    )
    entry = SimpleNamespace(
        token_merging=TokenMerging(levels=2, reuse=3), safety="", text="", vae="", family="sd15", image_encoder=None
    )  # fmt: skip

    class Registry:
        def __init__(self, weights: Path | None) -> None:
            seen["weights"] = weights

        def find(self, model: str | None, *, allow_paths: bool) -> SimpleNamespace:
            seen["model"] = model
            return entry

        def part(self, kind: str, name: str, *, allow_paths: bool) -> SimpleNamespace:
            seen[kind] = name
            return entry

    def cached(source: SimpleNamespace, dtype: str, out: Path | None) -> Path:
        seen.update(dtype=dtype, out=out)
        return place / "made"

    def export_model(path: Path, made: Path, dtype: str, merges: object, watch: object) -> None:
        seen.update(exported=True, merges=merges)

    def export_vae(path: Path, made: Path, dtype: str, family: str, watch: object) -> None:
        assert family == "sd15"

    def export_ip_adapter(path: Path, model: Path, made: Path, dtype: str, encoder: Path | None, watch: object) -> None:
        assert (model, encoder) == (place / "nothing", None)

    (place / "made").mkdir()
    if flag == "again":
        (place / "made" / folder.MANIFEST).write_text("{}")
    monkeypatch.setattr(registry, "Registry", Registry)
    monkeypatch.setattr(weights, "check", lambda entry: place / "nothing")
    monkeypatch.setattr(folder, "cached", cached)
    monkeypatch.setattr(folder, "export_model", export_model)
    monkeypatch.setattr(folder, "export_vae", export_vae)
    monkeypatch.setattr(folder, "export_ip_adapter", export_ip_adapter)
    for name in ("source_of", "vae_source", "ip_adapter_source"):
        monkeypatch.setattr(sources, name, lambda path, *family: SimpleNamespace(path=path))
    arguments, name, expected = EXPORT[flag]
    run("export", *arguments)
    printed = capsys.readouterr().out
    seen["printed"] = printed.startswith("{") and json.loads(printed)["folders"] == [str(place / "made")]
    assert seen[name] == expected
    if flag != "token_merging":
        assert seen["merges"] == folder.Merges(2, 3)


KEYS = {
    "keys add": {
        "name": (["eve"], "intarsia_"),
        "file": (["eve", "--file", "other.txt"], "intarsia_"),
        "as_json": (["eve", "--json"], '{\n  "schema": 2,\n  "name": "eve",'),
    },
    "keys list": {
        "file": (["--file", "other.txt"], "bob\tsha256:111111111111…\n"),
        "as_json": (["--json"], '{\n  "schema": 2,\n  "keys": [\n    {\n      "name": "ann",'),
    },
    "keys remove": {
        "name": (["ann"], ""),
        "file": (["bob", "--file", "other.txt"], ""),
        "as_json": (["ann", "--json"], '{\n  "schema": 2,\n  "name": "ann",\n  "left": 0\n}'),
    },
}


@pytest.mark.parametrize(("command", "flag"), [(command, flag) for command, rows in KEYS.items() for flag in rows])
def test_a_flag_of_keys_changes_what_is_listed_or_written(place, capsys, command, flag):
    (place / "keys.txt").write_text(f"ann sha256:{'0' * 64}\n")
    (place / "other.txt").write_text(f"bob sha256:{'1' * 64}\n")
    arguments, expected = KEYS[command][flag]
    if "--file" not in arguments:
        arguments = [*arguments, "--file", "keys.txt"]
    run(*command.split(), *arguments)
    assert capsys.readouterr().out.startswith(expected)

    names = [line.split()[0] for line in Path(arguments[-1]).read_text().splitlines()]
    before = "bob" if arguments[-1] == "other.txt" else "ann"
    assert names == {"keys add": [before, "eve"], "keys list": [before], "keys remove": []}[command]


DOCTOR = {"weights": (["--weights", "other.toml"], "nothing"), "as_json": (["--json"], "{")}


@pytest.mark.parametrize("flag", DOCTOR)
def test_a_flag_of_doctor_changes_what_is_looked_at_or_printed(place, monkeypatch, capsys, flag):
    monkeypatch.delenv("INTARSIA_WEIGHTS")
    arguments, expected = DOCTOR[flag]
    with suppress(IntarsiaError):
        run("doctor", *arguments)
    printed = capsys.readouterr().out
    assert ("default model: nothing" in printed) is (flag == "weights")
    assert printed.startswith("{") is (flag == "as_json")
    assert expected in printed


TABLE = {
    "doctor": DOCTOR,
    "inpaint": INPAINT,
    "compare": COMPARE,
    "request": REQUEST,
    "plan": PLAN,
    "schema": SCHEMA,
    "export": EXPORT,
    **KEYS,
    **MODELS,
    **ADDING,
    "schedulers": SCHEDULERS,
    "schedulers list": SCHEDULERS,
    "schedulers show": SHOW,
}


def test_every_flag_has_a_row():
    found = dict(walk(typer.main.get_command(cli.app)))
    assert {command: names for command, names in found.items() if names} == {
        command: set(rows) for command, rows in TABLE.items()
    }
    assert api.plan.__kwdefaults__ == {"allow_private_urls": False, "max_pixels": None, "precision": None}
