"""The dependency rule, and what importing costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "inlay"

# Folder or module → what of ours it may import, besides itself, inlay.errors and inlay.printable.
ALLOWED = {
    "inlay.printable": [],
    "inlay.errors": [],
    "inlay.schedulers": [],
    "inlay.engine.plan": [],
    "inlay.kernels": [],
    "inlay.models": ["inlay.kernels"],
    "inlay.backends": ["inlay.models", "inlay.kernels", "inlay.schedulers"],
    # nothing that needs torch
    "inlay.backends.onnx": [
        "inlay.backends.protocol",
        "inlay.backends.driver",
        "inlay.schedulers",
        "inlay.models.clip_pictures",
        "inlay.models.config_values",
    ],
    "inlay.engine": ["inlay.schedulers", "inlay.backends.protocol"],
}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imported(path: Path) -> set[str]:
    """Every module of ours that a file imports, inside functions too; ``if TYPE_CHECKING`` counts as well."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name == "inlay" or name.startswith("inlay.")}


def within(name: str, room: str) -> bool:
    return name == room or name.startswith(room + ".")


@pytest.mark.parametrize(("module", "path"), list(modules()), ids=[name for name, _ in modules()])
def test_dependency_rule(module, path):
    rooms = [room for room in ALLOWED if within(module, room)]
    if not rooms:
        return  # cli, commands, api and the package itself may import anything
    room = max(rooms, key=len)
    allowed = [room, "inlay.errors", "inlay.printable", *ALLOWED[room]]
    for name in imported(path) - {"inlay", "inlay.__version__"}:
        real = any(within(name, place) for place in allowed) or any(within(place, name) for place in allowed)
        assert real, f"{module} imports {name}; {room} may import only {allowed}"


@pytest.mark.parametrize("module", ["inlay.cli", "inlay.batch", "inlay.server", "inlay.commands", "inlay.export"])
def test_nothing_imports_the_outside(module):
    users = [name for name, path in modules() if any(within(used, module) for used in imported(path))]
    if module not in ("inlay.cli", "inlay.commands"):
        users = [name for name in users if not within(name, "inlay.commands")]
    # the package itself names what it loads on first use
    outside = [name for name in users if not within(name, module) and name not in ("inlay", "inlay.cli")]
    assert [name for name in outside if not within(name, "inlay.commands")] == []


def loaded_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_inlay_loads_nothing_heavy():
    assert not loaded_after("import inlay") & {"torch", "numpy", "PIL", "pydantic", "diffusers", "transformers"}


def test_requests_registry_and_schedulers_need_no_torch():
    code = "import inlay\ninlay.InpaintRequest; inlay.Engine; inlay.Registry; inlay.plan\n"
    code += "inlay.schedulers.table('EulerDiscreteScheduler', steps=4)"
    assert not loaded_after(code) & {"torch", "diffusers", "transformers", "onnxruntime"}


def test_the_onnx_backend_loads_no_torch():
    pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'inlay[cpu]'")
    assert not loaded_after("import inlay.backends.onnx.session") & {"torch", "diffusers", "transformers", "onnx"}


def test_public_names_are_locked():
    import inlay

    assert inlay.__all__ == sorted(inlay.__all__)
    assert set(inlay._HOMES) == set(inlay.__all__)
    for name in inlay.__all__:
        assert getattr(inlay, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = inlay.nothing
