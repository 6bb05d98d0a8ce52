"""The dependency rule, and what importing costs."""

from __future__ import annotations

import ast
import functools
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "intarsia"

# Folder or module → what of ours it may import, besides itself and these, which import nothing but each other.
EVERYWHERE = [
    "intarsia.counted",
    "intarsia.errors",
    "intarsia.printable",
    "intarsia.redact",
    "intarsia.spinning",
    "intarsia.execution",
    "intarsia.extensions",
    "intarsia.former_name",
    "intarsia.lru",
    "intarsia.memory_size",
    "intarsia.numbers",
    "intarsia.parent_pipe",
    "intarsia.threads",
    "intarsia.token_merging",
    "intarsia.prompt_words",
    "intarsia.weighted_text",
    "intarsia.checkpoints",
]
ALLOWED = {
    **{module: [] for module in EVERYWHERE},
    "intarsia.schedulers": [],
    "intarsia.images": [],
    "intarsia.canvas": ["intarsia.images"],
    "intarsia.registry": [],
    "intarsia.adding": ["intarsia.registry", "intarsia.images.atomic_files"],
    # documents in, documents out: of the engine only the types of what goes in and comes out
    "intarsia.endpoints": [
        "intarsia.images.encode",
        "intarsia.images.metadata",
        "intarsia.images.output_names",
        "intarsia.images.save",
        "intarsia.registry",
        "intarsia.schedulers",
        "intarsia.engine.noise",
        "intarsia.engine.plan",
        "intarsia.engine.request",
        "intarsia.engine.result",
    ],
    "intarsia.engine.plan": ["intarsia.canvas.boxes", "intarsia.canvas.options"],
    "intarsia.engine": [
        "intarsia.schedulers",
        "intarsia.images",
        "intarsia.canvas",
        "intarsia.registry",
        "intarsia.endpoints.answer",
        "intarsia.backends.protocol",
        "intarsia.backends.choose",
    ],
    # of the engine all, and of the images what reads, encodes and saves them
    "intarsia.comparing": ["intarsia.engine", "intarsia.images"],
    "intarsia.server": [
        "intarsia.comparing",
        "intarsia.images",
        "intarsia.registry",
        "intarsia.endpoints",
        "intarsia.engine",
        "intarsia.schedulers",
        "intarsia.backends.device_memory",
    ],
    "intarsia.kernels": ["intarsia.schedulers.packing"],
    "intarsia.models": ["intarsia.kernels"],
    "intarsia.backends": ["intarsia.models", "intarsia.kernels", "intarsia.schedulers"],
    "intarsia.backends.protocol": ["intarsia.schedulers"],
    # nothing that needs torch
    "intarsia.backends.onnx": [
        "intarsia.backends.protocol",
        "intarsia.backends.device_names",
        "intarsia.backends.device_memory",
        "intarsia.backends.driver",
        "intarsia.backends.memory_plan",
        "intarsia.backends.prompt_reading",
        "intarsia.backends.tile_spans",
        "intarsia.backends.token_regions",
        "intarsia.schedulers",
        "intarsia.models.clip_config",
        "intarsia.models.clip_images",
        "intarsia.models.clip_vocabulary",
        "intarsia.models.image_prompt",
        "intarsia.models.lora",
        "intarsia.models.lora_files",
        "intarsia.models.lora_numpy",
        "intarsia.models.stored_arrays",
        "intarsia.models.prompt_chunks",
        "intarsia.models.prompt_embeddings",
        "intarsia.models.tokens",
        "intarsia.models.unet_config",
    ],
}


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


@functools.cache
def imported(path: Path) -> set[str]:
    """Every module of ours that a file imports, inside functions too; ``if TYPE_CHECKING`` counts as well."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name == "intarsia" or name.startswith("intarsia.")}


def within(name: str, room: str) -> bool:
    return name == room or name.startswith(room + ".")


@pytest.mark.parametrize(("module", "path"), list(modules()), ids=[name for name, _ in modules()])
def test_a_module_imports_only_what_its_folder_may(module, path):
    rooms = [room for room in ALLOWED if within(module, room)]
    if not rooms:
        return  # cli, commands, api and the package itself may import anything
    room = max(rooms, key=len)
    allowed = [room, *EVERYWHERE, *ALLOWED[room]]
    for name in imported(path) - {"intarsia", "intarsia.__version__"}:
        real = any(within(name, place) for place in allowed) or any(within(place, name) for place in allowed)
        assert real, f"{module} imports {name}; {room} may import only {allowed}"


@pytest.mark.parametrize(
    "module",
    ["intarsia.cli", "intarsia.adding", "intarsia.batch", "intarsia.commands", "intarsia.export", "intarsia.server"],
)
def test_nothing_imports_the_outside(module):
    users = [name for name, path in modules() if any(within(used, module) for used in imported(path))]
    if module not in ("intarsia.cli", "intarsia.commands"):
        users = [name for name in users if not within(name, "intarsia.commands")]
    # the package itself names what it loads on first use
    entries = ("intarsia", "intarsia.__main__", "intarsia.cli")
    outside = [name for name in users if not within(name, module) and name not in entries]
    assert [name for name in outside if not within(name, "intarsia.commands")] == []


def loaded_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_intarsia_loads_nothing_heavy():
    assert not loaded_after("import intarsia") & {"torch", "numpy", "PIL", "pydantic", "diffusers", "transformers"}


SERVER_PACKAGES = {
    "fastapi",
    "starlette",
    "uvicorn",
    "httptools",
    "uvloop",
    "sqlalchemy",
    "prometheus_client",
    "multipart",
}


def test_the_library_and_its_commands_load_nothing_of_the_server():
    code = "import intarsia\nfor name in intarsia.__all__: getattr(intarsia, name)\n"
    code += "import intarsia.cli, typer.main\ndict(typer.main.get_command(intarsia.cli.app).commands)"
    loaded = loaded_after(code)
    assert {"intarsia.commands.serve", "intarsia.commands.models"} < loaded
    assert not loaded & (SERVER_PACKAGES | {"psycopg", "intarsia.server"})


def test_a_server_starts_without_what_only_some_requests_need(tmp_path):
    pytest.importorskip("fastapi", reason="needs the server's packages: pip install 'intarsia[serve]'")
    rare = {
        "httpx2",
        "httpcore2",
        "torch",
        "onnxruntime",
        "transformers",
        "psycopg",
        "ray",
        "fsspec",
        "rich",
        "tomlkit",
        # FastAPI imports it for a route of its own that has a parameter
        "pydantic.v1",
        "sqlalchemy.dialects.postgresql",
    }
    code = f"""
import intarsia.commands.serve, intarsia.server.serving
from pathlib import Path
from intarsia.server.app import create_app
from intarsia.server.services import Services
from intarsia.server.settings import EngineSettings, ServeSettings

services = Services.open(ServeSettings(data=Path({str(tmp_path)!r}), engine=EngineSettings(backend="null")))
services.start()
create_app(services)
services.close()
"""
    loaded = loaded_after(code)
    assert "intarsia.server.store.leases" in loaded
    assert not loaded & rare
    assert "intarsia.engine.engine" not in loaded  # which is in a process of its own
    # Pillow's decoders are imported beside a server that listens already.
    assert "PIL.TiffImagePlugin" not in loaded


def test_an_engines_process_is_started_before_the_server_is_imported(tmp_path):
    code = f"""
import sys
from intarsia.cli import main
from intarsia.server.engines import process_start

def start():
    raise SystemExit("started")

process_start.start_process = start
sys.argv = ["intarsia", "serve", "--null", "--port", "0", "--data", {str(tmp_path / "data")!r}]
try:
    main()
except SystemExit as end:
    assert str(end) == "started", end
"""
    loaded = loaded_after(code)
    assert "intarsia.server.settings" in loaded
    assert not loaded & (SERVER_PACKAGES | {"numpy", "PIL", "asyncio", "intarsia.server.serving"})


def test_an_engines_process_loads_nothing_of_the_server():
    loaded = loaded_after("import intarsia.server.engines.engine_process")
    assert "intarsia.engine.engine" in loaded
    assert not loaded & (SERVER_PACKAGES | {"asyncio", "http.client", "intarsia.endpoints", "torch", "onnxruntime"})


def test_a_command_imports_no_other():
    code = "import intarsia.cli, typer.main\ntyper.main.get_command(intarsia.cli.app).commands['serve']"
    loaded = loaded_after(code)
    assert "intarsia.commands.serve_options" in loaded
    assert not loaded & {"intarsia.commands.batch", "intarsia.commands.inpaint", "intarsia.commands.request_options"}


def test_of_pillows_decoders_those_that_are_used_are_imported():
    pillow = "from PIL import Image\nImage.init()"
    everything = loaded_after(pillow)
    used = loaded_after("from intarsia.images.decode import decoders\ndecoders()")
    assert "PIL.EpsImagePlugin" in everything - used
    assert "PIL.TiffImagePlugin" in everything & used


def test_keys_are_made_without_the_packages_of_the_server():
    assert not loaded_after("import intarsia.server.http.keys_editing") & SERVER_PACKAGES


def test_requests_registry_and_schedulers_need_no_torch():
    code = "import intarsia\nintarsia.InpaintRequest; intarsia.Engine; intarsia.Registry; intarsia.plan\n"
    code += "intarsia.schedulers.table('EulerDiscreteScheduler', steps=4)"
    assert not loaded_after(code) & {"torch", "diffusers", "transformers", "onnxruntime"}


def test_the_onnx_backend_loads_no_torch():
    pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'intarsia[cpu]'")
    assert not loaded_after("import intarsia.backends.onnx.session") & {"torch", "diffusers", "transformers", "onnx"}


EXTENDING = {
    "intarsia.backends.choose": ["BACKENDS", "CpuBackend", "backend_names", "choose", "register_backend"],
    "intarsia.schedulers": [
        "ALIASES", "Grid", "NAMES", "NoiseSchedule", "Rows", "Sampler", "SamplingRun", "SchedulerInfo", "Solver",
        "Table", "alpha_sigma", "catalogue", "has_curves", "info", "register", "resolve", "resolve_documented",
        "resolve_sampler", "table", "table_from_json", "table_to_json", "trace",
    ],
}  # fmt: skip


@pytest.mark.parametrize("module", EXTENDING)
def test_names_for_extensions_are_locked(module):
    assert importlib.import_module(module).__all__ == EXTENDING[module]


def test_public_names_are_locked():
    import intarsia

    assert intarsia.__all__ == sorted(intarsia.__all__)
    assert set(intarsia._HOMES) == set(intarsia.__all__)
    for name in intarsia.__all__:
        assert getattr(intarsia, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = intarsia.nothing
