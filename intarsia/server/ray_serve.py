"""``intarsia serve --ray``: the same application on Ray Serve, with one engine in each replica.

Two Ray applications are run: the engines, and the ingress, which answers HTTP. Jobs are in PostgreSQL and images in a
folder that all machines see, or behind any address that fsspec opens.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from intarsia.errors import BackendError, RequestError
from intarsia.server.app import create_app, guarded
from intarsia.server.engines.hosts import open_files
from intarsia.server.engines.ray_host import EngineReplica, RayHost
from intarsia.server.logs import log_to_stderr
from intarsia.server.services import Services
from intarsia.server.settings import ServeSettings

__all__ = ["RayOptions", "deploy", "serve_on_ray"]

ENGINES, INGRESS = "intarsia-engines", "intarsia"

# Models that a replica is taken to have open still, as Ray's router counts.
_OPEN_MODELS = 2


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """How the application is laid out on the cluster.

    Attributes:
        address: of a running cluster; empty starts one on this machine.
        replicas: engines at the start and at least.
        most_replicas: engines at most: between the two their number follows the queue.
        gpus: of each engine; 0 runs it on the CPU.
        cpus: of each engine.
        ingresses: processes that answer HTTP.
    """

    address: str = ""
    replicas: int = 1
    most_replicas: int = 0
    gpus: float = 1.0
    cpus: float = 1.0
    ingresses: int = 1

    def __post_init__(self) -> None:
        if self.replicas < 1 or self.ingresses < 1:
            raise RequestError("replicas", min(self.replicas, self.ingresses), "at least 1")
        if self.most_replicas and self.most_replicas < self.replicas:
            raise RequestError("most-replicas", self.most_replicas, f"at least the number of replicas, {self.replicas}")


def serve_on_ray(settings: ServeSettings, options: RayOptions, announce: Callable[[str], None]) -> None:
    """Deploy, and stay until a signal ends it.

    Raises:
        RequestError: no database that several machines can share.
        BackendError: Ray is not installed, or the cluster cannot be reached.
    """
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())

    log_to_stderr()
    deploy(settings, options)
    announce(f"serves on http://{settings.host}:{settings.port} with Ray Serve")
    ended.wait()
    _ray_serve().shutdown()


def deploy(settings: ServeSettings, options: RayOptions) -> None:
    """Start Ray where it is not running, and both applications on it; returns once they answer."""
    if not settings.database:
        raise RequestError("database", message="database is required with --ray: postgresql+psycopg://…")
    serve = _ray_serve()
    _connect(options)
    serve.start(http_options={"host": settings.host, "port": settings.port, "location": "EveryNode"})
    serve.run(_engines(settings, options), name=ENGINES, route_prefix=None)
    serve.run(_ingress(settings, options), name=INGRESS, route_prefix="/")


def _engines(settings: ServeSettings, options: RayOptions) -> Any:
    serve = _ray_serve()

    class Engines(EngineReplica):
        """A replica that says which models it has open, so that Ray's router prefers it for them."""

        @serve.multiplexed(max_num_models_per_replica=_OPEN_MODELS)  # type: ignore[untyped-decorator]
        async def opened(self, model: str) -> str:
            return model

        async def run(self, values: dict[str, Any]) -> Any:
            await self.opened(serve.get_multiplexed_model_id())
            async for message in super().run(values):
                yield message

        def __init__(self) -> None:
            super().__init__(settings.engine, open_files(settings.data, settings.files))

    count: dict[str, Any] = {"num_replicas": options.replicas}
    if options.most_replicas > options.replicas:
        count = {"autoscaling_config": {"min_replicas": options.replicas, "max_replicas": options.most_replicas}}
    slots = settings.engine.slots or _default_slots(settings)
    return serve.deployment(
        Engines,
        name="Engines",
        max_ongoing_requests=2 * slots,
        ray_actor_options={"num_gpus": options.gpus, "num_cpus": options.cpus},
        **count,
    ).bind()


def _default_slots(settings: ServeSettings) -> int:
    """Images that an engine evaluates together unless it is given a number; known without opening it."""
    return 8


def _ingress(settings: ServeSettings, options: RayOptions) -> Any:
    serve = _ray_serve()

    def build() -> Any:  # a plain function: Ray takes anything else for an application
        return _build(settings, options)

    ingress = serve.ingress(build)()
    return serve.deployment(
        ingress,
        name="Ingress",
        num_replicas=options.ingresses,
        max_ongoing_requests=1000,
        ray_actor_options={"num_cpus": 0.5},
    ).bind()


def _build(settings: ServeSettings, options: RayOptions) -> Any:
    """The application, in the ingress's process."""
    serve = _ray_serve()
    handle = serve.get_deployment_handle("Engines", ENGINES)
    most = max(options.replicas, options.most_replicas)

    services = Services.open(settings)
    slots = settings.engine.slots or _default_slots(settings)
    services.start(lambda listener: RayHost(handle, listener, 4 * slots * most))
    return guarded(create_app(services), services)


def _connect(options: RayOptions) -> None:
    import ray

    if ray.is_initialized():
        return
    try:
        ray.init(address=options.address or None, logging_level="ERROR", log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as exc:
        raise BackendError(f"the Ray cluster cannot be reached: {exc}") from exc


def _ray_serve() -> Any:
    try:
        from ray import serve
    except ImportError as exc:
        raise BackendError('serve --ray needs Ray Serve: pip install "intarsia[serve-ray]"') from exc
    return serve
