"""The command line, in a process of its own where exit codes and streams matter."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from typer.testing import CliRunner

from intarsia import RequestError, request_from
from intarsia import __version__ as intarsia_version
from intarsia.cli import UsageError, app
from intarsia.commands.usage_errors import usage_sentence
from tests.command_line import run_intarsia
from tests.tiny_files import SD1_LORA, write


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    mask = np.zeros((96, 128), np.uint8)
    mask[30:60, 40:90] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path


@pytest.fixture
def intarsia(scene: Path, empty_registry: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    environment = {**os.environ, "INTARSIA_WEIGHTS": str(empty_registry)}

    def run(*arguments: object, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return run_intarsia(arguments, cwd=scene, environment=environment, stdin=stdin)

    return run


def test_inpaint_prints_the_path_and_nothing_else_on_stdout(intarsia, scene):
    done = intarsia("inpaint", "photo.png", "mask.png", "--backend", "null", "--seed", 3, "-p", "a cat")
    assert (done.returncode, done.stdout, done.stderr) == (0, "photo-intarsia.png\n", "")
    with Image.open(scene / "photo-intarsia.png") as made:
        assert made.size == (128, 96)
        assert "a cat" in made.text["parameters"]
        assert json.loads(made.text["intarsia"])["seed"] == 3


def test_default_names_count_up_past_what_is_there(intarsia, scene):
    call = ("inpaint", "photo.png", "mask.png", "--backend", "null")
    names = [intarsia(*call, *more).stdout.split() for more in ([], [], ["--samples", 2], [])]
    assert names == [
        ["photo-intarsia.png"], ["photo-intarsia-2.png"],
        ["photo-intarsia-3.png", "photo-intarsia-4.png"], ["photo-intarsia-5.png"],
    ]  # fmt: skip
    assert intarsia(*call, "--overwrite").stdout == "photo-intarsia.png\n"
    assert len(list(scene.glob("photo-intarsia*"))) == 5


def test_an_image_is_made_again_from_its_file_and_varied(intarsia, scene):
    options = ("-p", "a cat", "--mask-padding", 16, "--masked-content", "fill", "--sampler", "DPM++ 2M SDE Karras")
    assert intarsia("inpaint", "photo.png", "mask.png", "--backend", "null", *options).returncode == 0
    again = ("inpaint", "--from", "photo-intarsia.png", "--backend", "null")
    done = intarsia(*again)
    assert (done.stdout, done.stderr) == ("photo-intarsia-2.png\n", "")
    files = [(scene / name).read_bytes() for name in ("photo-intarsia.png", "photo-intarsia-2.png")]
    assert files[0] == files[1]

    varied = intarsia(*again, "--mask", "mask.png", "-p", "a dog", "--seed", 7, "--json")
    report = json.loads(varied.stdout)
    assert (report["meta"]["prompt"], report["seeds"], report["meta"]["masked_content"]) == ("a dog", [7], "fill")


def test_what_cannot_be_made_again_is_said_in_a_sentence(intarsia, scene):
    done = intarsia("inpaint", "--from", "photo.png", "--backend", "null")
    assert (done.returncode, done.stderr) == (
        2, "intarsia: photo.png says nothing of how it was made: it has no metadata\n",
    )  # fmt: skip
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "a cat\nSteps: 5, Sampler: DPM fast, Seed: 3, Size: 64x64")
    Image.new("RGB", (8, 8)).save(scene / "other.png", pnginfo=text)
    done = intarsia("inpaint", "photo.png", "mask.png", "--from", "other.png", "--backend", "null", "--json")
    assert json.loads(done.stdout)["seeds"] == [3]
    assert done.stderr == "intarsia: other.png: not read: Sampler 'DPM fast'\n"
    done = intarsia("inpaint", "--from", "other.png", "--backend", "null")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        2, "intarsia: other.png names no file for init_image; give it",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("chunk", "text", "said"),
    [
        ("workflow", "{}", "it has metadata of ComfyUI (workflow)"),
        ("invokeai_metadata", '{"steps": 3}', "it has metadata of InvokeAI (invokeai_metadata)"),
        ("intarsia", "{damaged", "it has a text intarsia that is no JSON object"),
        ("parameters", "", "it has a text parameters without any field of a request"),
        ("Author", "somebody", "it has no metadata"),
    ],
)
def test_metadata_that_are_not_read_are_named(tmp_path, chunk, text, said):
    texts = PngImagePlugin.PngInfo()
    texts.add_text(chunk, text)
    Image.new("RGB", (8, 8)).save(tmp_path / "other.png", pnginfo=texts)
    with pytest.raises(RequestError, match=re.escape(said)):
        request_from(tmp_path / "other.png")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("inpaint", "--quality", "500"), "--quality must be between 1 and 100, not '500'"),
        (("inpaint", "--max-pixels", "0"), "--max-pixels must be at least 1, not '0'"),
        (("inpaint", "--format", "bmp"), "--format must be one of png, jpg, webp, not 'bmp'"),
        (("batch", "run", "--compression", "10"), "--compression must be between 0 and 9, not '10'"),
        (
            ("models", "remove", "ink", "--kind", "lora"),
            "--kind must be one of models, vaes, loras, embeddings, ip-adapters, safety, not 'lora'",
        ),
        (("serve", "--port", "abc"), "--port must be a valid integer, not 'abc'"),
        (("inpaint", "--nonsense"), "No such option: --nonsense"),
    ],
)
def test_usage_errors_name_option_and_value(arguments, sentence):
    """In the words of the Typer that constraints.txt has; an older one names the value itself."""
    with pytest.raises(UsageError) as caught:
        app(list(arguments), standalone_mode=False)
    assert usage_sentence(caught.value).startswith(sentence)


def test_a_quality_is_refused_for_png_which_loses_nothing(intarsia):
    options = ("inpaint", "photo.png", "mask.png", "--backend", "null", "--quality", 50)
    for out in ([], ["--out", "a.PNG"], ["--format", "png"]):
        done = intarsia(*options, *out)
        assert (done.returncode, done.stdout) == (2, "")
        assert "--quality 50 is for .jpg and .webp, not for .png" in done.stderr
    assert intarsia(*options, "--format", "webp").returncode == 0


def test_a_list_of_schedulers_by_either_name():
    printed = [CliRunner().invoke(app, ["schedulers", *more]).stdout for more in ([], ["list"])]
    assert printed[0] == printed[1] != ""
    as_json = [CliRunner().invoke(app, ["schedulers", *more, "--json"]).stdout for more in ([], ["list"])]
    assert as_json[0] == as_json[1]
    assert len(json.loads(as_json[0])["schedulers"]) == 18


def test_exif_of_the_input_is_kept_unless_it_is_stripped(intarsia, scene):
    block = Image.Exif()
    block[0x010F] = "Camera"
    with Image.open(scene / "photo.png") as image:
        image.save(scene / "photo.jpg", exif=block, dpi=(300, 300), quality=95)
    for more, maker in (([], "Camera"), (["--strip", "--overwrite"], None)):
        done = intarsia("inpaint", "photo.jpg", "mask.png", "--backend", "null", "-o", "a.jpg", "--quality", 50, *more)
        assert done.stdout == "a.jpg\n"
        with Image.open(scene / "a.jpg") as made:
            assert made.getexif().get(0x010F) == maker
            assert made.info["jfif_density"] == ((300, 300) if maker else (1, 1))


def test_a_folder_is_made_once_there_is_something_to_put_there(intarsia, scene):
    done = intarsia("inpaint", "photo.png", "mask.png", "--backend", "null", "-o", "new/v1.2/")
    assert done.stdout == "new/v1.2/photo-intarsia.png\n"
    failed = intarsia("inpaint", "photo.png", "mask.png", "-m", "nope", "-o", "other/")
    assert (failed.returncode, (scene / "other").exists()) == (3, False)


def test_quiet_leaves_out_warnings_and_verbose_says_what_ran(intarsia):
    call = ("inpaint", "photo.png", "mask.png", "--backend", "null", "--scheduler", "lcm")
    assert "LCMScheduler gives poor images" in intarsia(*call).stderr
    assert intarsia(*call, "-q").stderr == ""
    before = intarsia("--quiet", *call)
    assert (before.stderr, before.stdout) == ("", "photo-intarsia-3.png\n")
    assert "null on cpu: " in intarsia(*call, "--verbose").stderr


def test_version(intarsia):
    assert intarsia("--version").stdout == intarsia("-V").stdout == f"intarsia {intarsia_version}\n"


FAILURES = [
    (["inpaint", "photo.png", "mask.png", "--steps", "0"], "request", 2, "steps"),
    (["inpaint", "photo.png", "mask.png", "--stepz", "0"], "usage", 2, None),
    (["inpaint", "photo.png", "mask.png", "-o", "photo.png"], "output", 2, None),
    (["inpaint", "photo.png", "mask.png", "-m", "nope"], "weights", 3, None),
    (["inpaint", "photo.png", "mask.png", "--backend", "tpu"], "backend", 4, None),
    (["models", "verify", "nope"], "weights", 3, None),
    (["plan", "gone.json"], "request", 2, "FILE"),
    (["nope"], "usage", 2, None),
]


@pytest.mark.parametrize(("arguments", "kind", "code", "field"), FAILURES, ids=[row[0][-1] for row in FAILURES])
def test_an_error_is_json_where_json_is_asked_for(intarsia, arguments, kind, code, field):
    done = intarsia(*arguments, "--json")
    report = json.loads(done.stdout)
    assert done.returncode == code
    assert report["schema"] == 2
    expected = {"kind": kind, "exit_code": code, "message": report["error"]["message"]}
    assert report["error"] == (expected if field is None else expected | {"field": field})
    assert done.stderr == f"intarsia: {report['error']['message']}\n"


def test_json_on_standard_output_is_one_value(intarsia):
    """The files that were compared are in it; the error about them is on standard error alone."""
    done = intarsia("models", "verify", "nothing", "--json")
    assert (done.returncode, json.loads(done.stdout)["files"]) == (3, [])


HELP = [["--help"], ["inpaint", "-h"], ["batch", "run", "--help"], ["models", "add", "-h"], ["serve", "-h"]]


@pytest.mark.parametrize("arguments", HELP, ids=[" ".join(each) for each in HELP])
def test_help_fits_80_columns_and_loads_nothing_it_does_not_need(scene, arguments):
    code = (
        "import sys\nfrom intarsia.cli import main\ntry:\n    main()\nexcept SystemExit:\n"
        "    print(*sys.modules, file=sys.stderr)"
    )
    environment = {**os.environ, "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=scene, env=environment, capture_output=True, text=True
    )
    assert done.stdout.startswith("Usage: intarsia")
    assert max(map(len, done.stdout.splitlines())) <= 80
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert not loaded & {"numpy", "PIL", "pydantic", "rich", "torch", "onnxruntime", "httpx2", "huggingface_hub"}


def test_completion_knows_the_options(scene):
    environment = {**os.environ, "_INTARSIA_COMPLETE": "complete_bash", "COMP_WORDS": "intarsia inpaint --mask-",
                   "COMP_CWORD": "2"}  # fmt: skip
    command = [sys.executable, "-m", "intarsia"]
    done = subprocess.run(command, cwd=scene, env=environment, capture_output=True, text=True)
    assert {"--mask-blur", "--mask-padding", "--mask-dilate"} <= set(done.stdout.split())


def test_samples_are_numbered_and_json_is_json(intarsia, scene):
    done = intarsia("inpaint", "photo.png", "mask.png", "-o", "a.webp", "--samples", 2, "--backend", "null", "--json")
    report = json.loads(done.stdout)
    assert report["output"] == ["a-1.webp", "a-2.webp"]
    assert report["seeds"][1] == report["seeds"][0] + 1
    assert all((scene / name).exists() for name in report["output"])


def test_every_sample_says_its_own_seed(intarsia, scene):
    intarsia("inpaint", "photo.png", "mask.png", "-o", "a.png", "--samples", 2, "--seed", 7, "--backend", "null")
    for number in (1, 2):
        with Image.open(scene / f"a-{number}.png") as made:
            assert json.loads(made.text["intarsia"])["seed"] == 6 + number
            assert f"Seed: {6 + number}, " in made.text["parameters"]


def test_any_field_can_be_set(intarsia):
    done = intarsia(
        "inpaint", "photo.png", "mask.png", "--backend", "null", "--json",
        "--set", "mask_blur=0", "--set", "masked_content=fill", "--set", "seed=9",
    )  # fmt: skip
    assert json.loads(done.stdout)["meta"]["seed"] == 9


def test_parts_of_the_registry(intarsia, scene, empty_registry):
    (scene / "look").mkdir()
    (scene / "look" / "ip_adapter.safetensors").write_bytes(b"")
    write(scene / "ink.safetensors", SD1_LORA)
    with empty_registry.open("a") as registry:
        registry.write(
            f'[loras.ink]\npath = "{scene}/ink.safetensors"\n[loras.wash]\npath = "{scene}/ink.safetensors"\n'
        )
        registry.write(f'[ip_adapters.look]\npath = "{scene}/look"\n')
    done = intarsia(
        "inpaint", "photo.png", "mask.png", "--backend", "null", "--json", "--lora", "ink:-0.5", "--lora", "wash",
        "--ip-adapter", "look", "--ip-adapter-image", "photo.png", "--ip-adapter-scale", 0.25,
    )  # fmt: skip
    meta = json.loads(done.stdout)["meta"]
    assert [(lora["id"], lora["strength"]) for lora in meta["loras"]] == [("ink", -0.5), ("wash", 1.0)]
    assert (meta["ip_adapter"].partition(":")[0], meta["ip_adapter_scale"]) == ("look", 0.25)


def test_no_metadata_writes_no_text_into_the_file(intarsia, scene):
    intarsia("inpaint", "photo.png", "mask.png", "-o", "bare.png", "--backend", "null", "--no-metadata")
    with Image.open(scene / "bare.png") as made:
        assert made.text == {}


def test_plan_reads_a_file_or_standard_input_and_no_torch(intarsia, scene):
    request = {"init_image": "photo.png", "mask_image": "mask.png", "seed": 1, "steps": 10}
    (scene / "request.json").write_text(json.dumps(request))
    from_file = intarsia("plan", "request.json")
    assert json.loads(from_file.stdout)["sampler"]["evaluations"] == 7
    assert intarsia("plan", "-", stdin=json.dumps(request)).stdout == from_file.stdout


BAD = [
    (["inpaint", "gone.png", "mask.png"], 2, "init_image: file not found"),
    (["inpaint", "photo.png", "gone.png"], 2, "mask_image: file not found"),
    (["inpaint", "text.png", "mask.png"], 2, "init_image: "),
    (["inpaint", "cut.png", "mask.png"], 2, "init_image: "),
    (["inpaint", ".", "mask.png"], 2, "is a folder"),
    (["inpaint", "photo.png", "other.png"], 2, "mask_image"),
    (["inpaint", "photo.png", "black.png"], 2, "mask_image"),
    (["inpaint", "photo.png", "mask.png", "--model", "nope"], 3, "Model not found: nope"),
    (["inpaint", "photo.png", "mask.png", "--scheduler", "nope"], 2, "scheduler must be one of"),
    (["inpaint", "photo.png", "mask.png", "--strength", "nan"], 2, "strength must be"),
    (["inpaint", "photo.png", "mask.png", "--strength", "3"], 2, "strength must be"),
    (["inpaint", "photo.png", "mask.png", "--steps", "0"], 2, "steps must be"),
    (["inpaint", "photo.png", "mask.png", "--guidance", "inf"], 2, "guidance_scale must be"),
    (["inpaint", "photo.png", "mask.png", "--size", "512"], 2, "--size must be WIDTHxHEIGHT"),
    (["inpaint", "photo.png", "mask.png", "--size", "32x512"], 2, "width must be"),
    (["inpaint", "photo.png", "mask.png", "--vae", "nope"], 3, "VAE not found: nope"),
    (["inpaint", "photo.png", "mask.png", "--lora", "nope:0.5"], 3, "LoRA not found: nope"),
    (["inpaint", "photo.png", "mask.png", "--lora", "ink:much"], 2, "--lora must be ID or ID:STRENGTH"),
    (["inpaint", "photo.png", "mask.png", "--lora", "ink:nan"], 2, "--lora must be ID or ID:STRENGTH"),
    (["inpaint", "photo.png", "mask.png", "--ip-adapter", "nope"], 3, "IP adapter not found: nope"),
    (["inpaint", "photo.png", "mask.png", "--ip-adapter-image", "photo.png"], 2, "needs --ip-adapter"),
    (["inpaint", "photo.png", "mask.png", "--set", "stepz=3"], 2, "stepz is not a field"),
    (["inpaint", "photo.png", "mask.png", "--set", "steps"], 2, "--set must be NAME=VALUE"),
    (["inpaint", "photo.png", "mask.png", "-o", "made.tiff"], 2, "made.tiff"),
    (["inpaint", "photo.png", "mask.png", "-o", "text.png/made.png"], 2, "text.png is no folder"),
    (
        ["inpaint", "photo.png", "mask.png", "-o", "photo.png"],
        2,
        "already there; choose another name, or overwrite it (--overwrite)",
    ),
    (["inpaint", "photo.png", "mask.png", "--weights", "none.toml"], 3, "no such file"),
    (["inpaint", "photo.png", "mask.png", "-o", "x" * 300 + ".png"], 2, "File name too long"),
    (["inpaint", "photo.png", "mask.png", "-p", b"\xff"], 2, "prompt must be valid Unicode"),
    (["inpaint", "photo.png", "mask.png", "--lora", b"\xff"], 2, "loras.0.id must be"),
    (["inpaint", "photo.png", "mask.png", "--device", "cuda:77"], 4, "cuda:77"),
    (["inpaint", "photo.png", "mask.png", "--backend", "tpu"], 4, "backend must be one of"),
    (["plan", "none.json"], 2, "none.json cannot be read"),
    (["plan", "text.png"], 2, "is not JSON"),
    (["plan", "photo.png"], 2, "photo.png is not JSON but no text at all"),
    (["inpaint", "photo.png"], 2, "mask is missing"),
    (["inpaint", "photo.png", "mask.png", "--image", "photo.png"], 2, "--image is given by the argument photo.png too"),
    (["inpaint", "photo.png", "mask.png", "--size", "64x64", "--width", 64], 2, "--size says --width and --height"),
    (["inpaint", "photo.png", "mask.png", "--steps", "3", "--set", "steps=4"], 2, "--set steps is given by an option"),
    (["inpaint", "photo.png", "mask.png", "-o", "z.jpg", "--format", "png"], 2, "contradicts the name z.jpg"),
    (["inpaint", "photo.png", "mask.png", "-q", "-v"], 2, "--quiet and --verbose contradict"),
    (["plan", "list.json"], 2, "must hold a JSON object"),
    (["models", "path", "nope"], 3, "Model not found: nope"),
    (["models", "verify", "nothing"], 3, "pins no files"),
    (["models", "path", "--kind", "loras", "nope"], 3, "LoRA not found: nope; the registry has: pastel"),
]


@pytest.mark.parametrize(("arguments", "code", "sentence"), BAD, ids=[" ".join(map(str, row[0]))[:80] for row in BAD])
def test_bad_input_is_one_line_a_code_and_no_file(intarsia, scene, arguments, code, sentence):
    (scene / "text.png").write_text("this is no picture")
    (scene / "cut.png").write_bytes((scene / "photo.png").read_bytes()[:2000])
    (scene / "list.json").write_text("[1]")
    Image.new("L", (64, 64), 255).save(scene / "other.png")
    Image.new("L", (128, 96), 0).save(scene / "black.png")
    before = sorted(path.name for path in scene.rglob("*"))
    null = [] if {"--backend", "--device"} & set(arguments) or arguments[0] != "inpaint" else ["--backend", "null"]
    done = intarsia(*arguments, *null)
    assert done.returncode == code, done.stderr
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert (done.stdout == "") or arguments[:2] == ["models", "verify"]
    assert sorted(path.name for path in scene.rglob("*")) == before


@pytest.mark.parametrize(
    "arguments", [["nope"], ["inpaint"], ["inpaint", "a", "b", "--strength", "much"], ["models", "x"]]
)
def test_bad_usage_is_two(intarsia, arguments):
    done = intarsia(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_output_that_cannot_be_written_is_one_line_and_two(empty_registry):
    environment = {**os.environ, "INTARSIA_WEIGHTS": str(empty_registry)}
    command = [sys.executable, "-c", "from intarsia.cli import main; main()", "models", "list"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1), done.stderr
    assert "No space left" in done.stderr
    ascii_only = {**environment, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*command[:3], "schedulers"], env=ascii_only, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        done = subprocess.run([*command[:3], "schema"], stdout=closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")


def test_samples_are_all_there_or_none(intarsia, scene):
    (scene / "s-3.png").mkdir()
    done = intarsia(
        "inpaint", "photo.png", "mask.png", "-o", "s.png", "--samples", 4, "--backend", "null", "--overwrite"
    )
    assert done.returncode == 2
    assert not [path for path in scene.glob("s-*.png") if path.is_file()]


def test_a_request_may_begin_with_a_byte_order_mark(intarsia, scene):
    asked = {"init_image": "photo.png", "mask_image": "mask.png", "seed": 4}
    (scene / "request.json").write_text(json.dumps(asked), encoding="utf-8-sig")
    assert json.loads(intarsia("plan", "request.json").stdout)["seeds"] == [4]


def test_models_lists_the_registry_and_says_where_a_model_lies(intarsia):
    assert "nothing\tsd15-inpaint\tmissing, default" in intarsia("models", "list").stdout
    rows = json.loads(intarsia("models", "list", "--json").stdout)["entries"]
    # a folder of which only the index is there cannot be opened
    installed = {row["id"]: row["installed"] for row in rows}
    packaged = ("intarsia-tiny", "intarsia-tiny-lcm", "intarsia-tiny-base")
    assert installed == {"nothing": False} | dict.fromkeys(packaged, True)
    assert Path(intarsia("models", "path").stdout.strip()).name == "nothing"


def test_what_is_used_with_models(intarsia, empty_registry):
    ink = write(empty_registry.with_name("ink.safetensors"), SD1_LORA)
    content = ink.read_bytes()
    pin = f'"ink.safetensors" = {{bytes = {len(content)}, sha256 = "{hashlib.sha256(content).hexdigest()}"}}\n'
    empty_registry.write_text(
        empty_registry.read_text()
        + f'[loras.ink]\npath = "ink.safetensors"\nfamilies = ["sd15"]\n[loras.ink.files]\n{pin}'
        + '[loras.gone]\npath = "gone.safetensors"\n'
    )
    loras = ("--kind", "loras")
    answer = intarsia("models", "list", *loras)
    assert "gone: its file " in answer.stderr
    listed = answer.stdout.splitlines()
    assert listed[:2] == ["ink\tsd15\tinstalled\tunknown", "gone\tevery family\tmissing\tunknown"]
    rows = json.loads(intarsia("models", "list", *loras, "--json").stdout)["entries"]
    installed = {row["id"]: row["installed"] for row in rows}
    assert installed == {"ink": True, "gone": False, "stripes": True, "pastel": True, "shade": True}
    assert intarsia("models", "path", *loras, "ink").stdout.strip() == str(ink)
    assert intarsia("models", "verify", *loras, "ink").stdout.startswith(f"ok\t{len(content)}\t")
    write(ink, SD1_LORA, fill=1)
    changed = intarsia("models", "verify", *loras, "ink")
    assert (changed.returncode, changed.stdout.split("\t")[0]) == (3, "hash")
    unnamed = intarsia("models", "path", "--kind", "safety")
    assert unnamed.returncode == 2
    assert "intarsia-tiny-safety" in unnamed.stderr


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
def test_interrupting_leaves_no_file_and_130(scene, empty_registry):
    code = (
        # a shell's background jobs inherit an interrupt that is ignored
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import time\nfrom intarsia.backends.null import NullSession\n"
        "def slow(self, steps):\n    print('evaluating', flush=True)\n    time.sleep(0.2)\n"
        "NullSession.advance = slow\nfrom intarsia.cli import main\nmain()"
    )
    command = [sys.executable, "-c", code, "inpaint", "photo.png", "mask.png", "--backend", "null", "--steps", "100"]
    environment = {**os.environ, "INTARSIA_WEIGHTS": str(empty_registry)}
    process = subprocess.Popen(command, cwd=scene, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"evaluating\n"
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130, stderr
    assert stderr.decode().strip() == "intarsia: interrupted; nothing was written"
    assert time.monotonic() - began < 10
    assert not list(scene.glob("*intarsia*"))


@pytest.mark.every(3)
@pytest.mark.parametrize("arguments", [["plan", "request.json"], ["schedulers", "show", "euler"], ["models", "list"]])
def test_what_needs_no_torch_loads_none(scene, empty_registry, arguments):
    (scene / "request.json").write_text(json.dumps({"init_image": "photo.png", "mask_image": "mask.png"}))
    code = (
        "import sys\nfrom intarsia.cli import main\ntry:\n    main()\nexcept SystemExit as done:\n"
        "    print(done.code, {'torch', 'transformers', 'diffusers'} & set(sys.modules), file=sys.stderr)"
    )
    environment = {**os.environ, "INTARSIA_WEIGHTS": str(empty_registry)}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=scene, env=environment, capture_output=True, text=True
    )
    *notes, last = done.stderr.strip().splitlines()
    assert last == "0 set()"
    # of the registry's second model, whose files are not there
    assert [" no such file, nor .fp16" in note for note in notes] == [True] * (arguments[0] == "models")


def test_schedulers_lists_prints_and_plots_tables(intarsia, scene):
    rows = json.loads(intarsia("schedulers", "--json").stdout)["schedulers"]
    assert len(rows) == 18
    listed = intarsia("schedulers").stdout
    assert all(row["name"] in listed for row in rows)
    shown = json.loads(intarsia("schedulers", "show", "heun", "--steps", 5, "--json").stdout)
    assert len(shown["timesteps"]) == 9
    text = intarsia("schedulers", "show", "UniPC", "--steps", 4, "--karras").stdout
    assert "UniPCMultistepScheduler, 4 steps, 4 evaluations" in text
    assert intarsia("schedulers", "show", "heun", "--steps", 0).returncode == 2
    assert intarsia("schedulers", "show", "heun", "--plot", "heun.png").returncode == 0
    with Image.open(scene / "heun.png") as drawn:
        assert drawn.width > 400
    assert intarsia("schedulers", "show", "heun", "--plot", "nowhere/x.png").returncode == 2
    assert intarsia("schedulers", "show", "heun", "--plot", "heun.nope").returncode == 2
