"""ONNX Runtime's providers, how its sessions are made, and the one place where its exceptions are translated."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as raised

from intarsia.backends.device_names import check_device_name
from intarsia.backends.driver import gpu_count
from intarsia.backends.onnx.blocked_layout import block_channels
from intarsia.backends.onnx.folding import Origin, WeightMaker, fold
from intarsia.backends.onnx.stream import CudaStream, HostStream, Stream
from intarsia.errors import BackendError, DeviceLost, OutOfMemory
from intarsia.spinning import onnx_runtime_settings

__all__ = ["Device", "installed_versions", "pick_device", "translated"]

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
# Of ONNX Runtime's logging: errors; what is worth an exception is one anyway.
_ERRORS_ONLY = 3
# Every status code is an exception class of its own, without a common one; CUDA's errors outside of operations, as in
# copies and at the end of a capture, are bare RuntimeErrors.
_RAISED: tuple[type[Exception], ...] = (
    *(kind for kind in vars(raised).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    RuntimeError,
)
# In ONNX Runtime's messages.
_OUT_OF_MEMORY = ("Failed to allocate memory", "bad allocation", "bad_alloc")
# Up to 1.29, a captured Concat of unequal parts read its pointers from host memory that later runs write to
# (microsoft/onnxruntime#32121). The first release that was looked at and has the change:
_CAPTURES_RIGHT = (1, 31)
# The optimizers that read weights of convolutions: for the layout of faster kernels, and to multiply them by factors of
# what follows.
_READ_CONVOLUTIONS = ["NchwcTransformer", "ConvMulFusion", "ConvBNFusion"]


@dataclass(frozen=True)
class Device:
    """Where graphs run.

    Attributes:
        kind: ``cpu``, ``cuda`` or ``tensorrt``.
        index: of the GPU.
        threads: of one operator on the CPU; 0 lets ONNX Runtime take one for each core.
        folds: on a CPU, large weights are converted and laid out here, each once in memory, instead of by ONNX Runtime,
            which needs twice the memory for it.
        packs: on a CPU, ONNX Runtime keeps matrices a second time, packed, and the memory of a run for the next one.
    """

    kind: str
    index: int = 0
    threads: int = 0
    folds: bool = False
    packs: bool = True

    @property
    def name(self) -> str:
        return "cpu" if self.kind == "cpu" else f"{self.kind}:{self.index}"

    @property
    def provider(self) -> str:
        return PROVIDERS[self.kind]

    @property
    def captures(self) -> bool:
        """Whether steps can be captured. TensorRT builds its engines anew as shapes come up, beneath a capture."""
        return self.kind == "cuda"

    def why_not_captured(self, dtype: str) -> str:
        """What keeps this ONNX Runtime from capturing graphs of a number format; empty where nothing does."""
        if dtype == "float32":
            return "float32 graphs have branches; intarsia export MODEL --dtype float16 makes graphs that have none"
        major, minor, *_ = ort.__version__.split(".")
        if (int(major), int(minor)) < _CAPTURES_RIGHT:
            first_right = ".".join(map(str, _CAPTURES_RIGHT))
            return f"onnxruntime {ort.__version__} captures Concat with addresses that change; {first_right} does not"
        return ""

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Number formats of graphs, the preferred one first."""
        return ("float32",) if self.kind == "cpu" else ("float16", "float32")

    @property
    def options(self) -> tuple[tuple[str, str], ...]:
        """Settings of the sessions, for the result."""
        threads = str(self.threads) if self.threads else "one for each core"
        return (("provider", self.provider), ("threads", threads), ("graph_optimization", "all"))

    def open(
        self,
        graph: bytes,
        weights: Path | None = None,
        *,
        stream: Stream | None = None,
        captured: bool = False,
        given: dict[str, WeightMaker] | None = None,
        beside: ort.InferenceSession | None = None,
    ) -> ort.InferenceSession:
        """A session on a graph.

        Args:
            weights: the folder that the graph's external weights are relative to, none of them a link that leads out
                of it; they are mapped, not copied, but for those that are converted.
            stream: runs are launched on it; None gives the session a stream of its own.
            captured: it can capture runs as CUDA graphs; only with all of the graph on a GPU.
            given: makes weights by name, in place of those in files; those that are shared are not made. It is emptied:
                what a maker keeps is released as soon as nothing needs it.
            beside: a session on another graph of the same network, with the same ``weights`` and ``given``: the two
                share their folded weights.

        Raises:
            BackendError: the provider gave way to another one.
        """
        if self.kind != "cpu":
            _load_cuda()
        options = self._session_options(weights, captured)
        makers = {} if given is None else given
        settings: dict[str, Any] = {}
        folded: dict[str, ort.OrtValue] = {}
        by_origin: dict[Origin, NDArray[np.float32]] = {}
        if self.folds and weights is not None:
            block = block_channels()
            known = beside.folded_weights if beside is not None else None
            folded_graph = fold(graph, weights, makers, block=block, known=known)
            graph, by_origin = folded_graph.content, folded_graph.by_origin
            folded = _shared(folded_graph.weights, options)
            if not block:
                settings["disabled_optimizers"] = _READ_CONVOLUTIONS  # they can read the weights no more
        if makers:
            # before anything is computed with them, unlike add_initializer
            # of a packed array an OrtValue is a view; ONNX Runtime takes no other here, and copies it
            arrays = [ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(make())) for make in makers.values()]
            options.add_external_initializers(list(makers), arrays)
            makers.clear()
        session = ort.InferenceSession(graph, options, providers=self._providers(stream, captured), **settings)
        session.disable_fallback()
        session.kept = (stream, folded)  # which have to outlive it
        session.folded_weights = by_origin
        if session.get_providers()[0] != self.provider:
            raise BackendError(
                f"{self.provider} cannot be used on {self.name}: its libraries (CUDA, cuDNN, TensorRT) do not load"
            )
        return session

    def _session_options(self, weights: Path | None, captured: bool) -> ort.SessionOptions:
        options = ort.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        options.intra_op_num_threads = self.threads

        # Several sessions take turns: threads of one that spin when it is done would slow the next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        for key, value in onnx_runtime_settings().items():
            options.add_session_config_entry(key, value)

        if self.kind == "cpu" and not self.packs:
            options.add_session_config_entry("session.disable_prepacking", "1")
            options.enable_cpu_mem_arena = False  # it keeps the most that any run took

        # A pattern asks for all memory of a run at once from the second run on, which is the one that is captured.
        options.enable_mem_pattern = not captured
        if weights is not None:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(weights))
        return options

    def _providers(self, stream: Stream | None, captured: bool) -> list[Any]:
        """TensorRT falls back on CUDA for single operations, and both on the CPU, which holds shapes in any case."""
        settings = {"device_id": str(self.index)}
        if stream is not None and stream.handle:
            settings["user_compute_stream"] = str(stream.handle)

        providers: list[Any] = []
        if self.kind == "tensorrt":
            providers.append((PROVIDERS["tensorrt"], settings))
        if self.kind != "cpu":
            # TF32 keeps 10 bits of what float32 graphs and the solver's own products are given
            cuda = {**settings, "use_tf32": "0", "enable_cuda_graph": str(int(captured))}
            providers.append((PROVIDERS["cuda"], cuda))
        providers.append(PROVIDERS["cpu"])
        return providers

    def put(self, array: np.ndarray) -> ort.OrtValue:
        """A copy of an array on the device, of the same shape and type."""
        packed = np.ascontiguousarray(array)
        return ort.OrtValue.ortvalue_from_numpy(packed, self._memory, self.index)

    def empty(self, shape: Sequence[int]) -> ort.OrtValue:
        """float32 on the device, for a result."""
        return ort.OrtValue.ortvalue_from_shape_and_type(list(shape), np.float32, self._memory, self.index)

    def stream(self) -> Stream:
        """A new stream on this device."""
        return HostStream() if self.kind == "cpu" else CudaStream(self.index)

    @property
    def _memory(self) -> str:
        return "cpu" if self.kind == "cpu" else "cuda"


def pick_device(name: str) -> Device:
    """``auto`` is CUDA where there is a GPU and this ONNX Runtime can use it, else the CPU.

    Raises:
        BackendError: a device asked for by name, whose provider is not there.
    """
    check_device_name(name, "onnx")
    available = ort.get_available_providers()
    if name == "auto":
        name = "cuda" if PROVIDERS["cuda"] in available and gpu_count() else "cpu"

    kind, _, index = name.partition(":")
    if PROVIDERS[kind] not in available:
        raise BackendError(
            f"device {name} needs ONNX Runtime's {PROVIDERS[kind]}, which the installed onnxruntime {ort.__version__} "
            "does not have: pip install onnxruntime-gpu (in place of onnxruntime)"
        )

    requested = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(requested) if requested.isdecimal() else 0
    return Device(kind, int(index or 0), threads)


def installed_versions() -> tuple[tuple[str, str], ...]:
    """Versions of the packages that compute, for the result."""
    versions = [("onnxruntime", str(ort.__version__))]
    for package in ("tokenizers", "numpy"):
        try:
            versions.append((package, version(package)))
        except PackageNotFoundError:
            continue
    return tuple(versions)


def _shared(weights: dict[str, NDArray[np.float32]], options: ort.SessionOptions) -> dict[str, ort.OrtValue]:
    """Have a session use weights where they are. They have to outlive it."""
    values = {name: ort.OrtValue.ortvalue_from_numpy(weight) for name, weight in weights.items()}
    for name, value in values.items():
        options.add_initializer(name, value)
    return values


@cache
def _load_cuda() -> None:
    """Load CUDA's libraries from pip's packages, where ONNX Runtime's provider does not look by itself.

    ONNX Runtime prints what it cannot load to stdout, which is for data. Each session is checked for its provider
    instead.
    """
    with redirect_stdout(io.StringIO()):
        ort.preload_dlls()


@contextmanager
def translated(what: str, device: Device) -> Iterator[None]:
    """Turn ONNX Runtime's exceptions into ours; ``what`` completes "failed to …"."""
    try:
        yield
    except MemoryError as exc:
        raise OutOfMemory(f"out of memory while trying to {what}") from exc
    except _RAISED as exc:
        text = " ".join(str(exc).split()) or type(exc).__name__
        if any(phrase in text for phrase in _OUT_OF_MEMORY):
            raise OutOfMemory(
                f"out of memory on {device.name} while trying to {what}; "
                "a smaller width and height or fewer samples would fit"
            ) from exc

        failure = DeviceLost if "CUDA error" in text else BackendError  # ONNX Runtime has no class for it
        raise failure(f"onnxruntime failed to {what} on {device.name}: {text}") from exc
