"""The server of the page: one process on this machine, for the people at this machine."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles
except ImportError as error:
    raise ImportError(
        f'the page needs {error.name}; install it with: pip install "eigenstep[explore]"'
    ) from None

from eigenstep._checks import integer
from eigenstep.data.images import IMAGE_SUFFIXES
from eigenstep.explore.answers import Desk
from eigenstep.explore.state import MOST_STEPS

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

PAGE = Path(__file__).with_name("page")
MOST_SPECTRUM_BYTES = 256 * 2**20
MOST_IMAGE_BYTES = 64 * 2**20
MOST_FOLDER_BYTES = 2 * 2**30
_HEADERS = {
    # The browser itself sees to it that nothing comes from elsewhere.
    "content-security-policy": "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}
_LOG = logging.getLogger("eigenstep.explore")


class Refused(ValueError):
    """A request that cannot be met, with the status that says why."""

    def __init__(self, message: str, status: int = 400) -> None:
        """A sentence for the reader, and an HTTP status."""
        super().__init__(message)
        self.status = status


def application(desk: Desk, *, hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")) -> Starlette:
    """The page and what it asks for, as an ASGI application.

    Parameters
    ----------
    desk : Desk
    hosts : tuple of str
        Names by which the server may be addressed: any other is a page elsewhere that was led here.
    """
    server = _Server(desk)
    routes = [
        Route("/", _index),
        Mount("/page", StaticFiles(directory=PAGE)),
        Route("/api/options", _answered(server.options)),
        Route("/api/view", _answered(server.view)),
        Route("/api/steps", _answered(server.steps)),
        Route("/api/interval", _answered(server.interval)),
        Route("/api/copy", _answered(server.copied)),
        Route("/api/spectra", _answered(server.receive_spectrum), methods=["POST"]),
        Route("/api/folders", _answered(server.measure_folder), methods=["POST"]),
        Route("/api/drops", _answered(server.begin_drop), methods=["POST"]),
        Route("/api/drops/{drop}/files", _answered(server.receive_image), methods=["POST"]),
        Route("/api/drops/{drop}/measure", _answered(server.measure_drop), methods=["POST"]),
        Route("/api/network", _answered(server.network)),
        Route("/api/network/measure", _answered(server.measure_network), methods=["POST"]),
        Route("/api/network/compare", _answered(server.compare_network), methods=["POST"]),
        Route("/api/jobs/{job}", _answered(server.job)),
        Route("/api/jobs/{job}/stop", _answered(server.stop), methods=["POST"]),
    ]

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            server.close()

    middleware = [Middleware(_Guarded), Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))]
    return Starlette(routes=routes, middleware=middleware, lifespan=lifespan)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 stands for any that is free.

    Raises
    ------
    OSError
        The port is taken or not for us; a sentence says which other way there is.
    """
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        why = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        raise OSError(
            error.errno, f"Port {port} of {host} {why}; give another with --port, or --port 0 for any that is free."
        ) from None
    return listening


def serve(desk: Desk, listening: socket.socket, *, started: Callable[[], object] = lambda: None) -> None:
    """Serve the page until Ctrl-C.

    Parameters
    ----------
    desk : Desk
    listening : socket
        From `listen`.
    started : callable
        Called once the server answers.
    """
    host: str = listening.getsockname()[0]
    names = ("*",) if host in ("0.0.0.0", "::") else ("localhost", "127.0.0.1", "[::1]", host)
    config = uvicorn.Config(application(desk, hosts=names), log_level="warning", access_log=False, timeout_graceful_shutdown=1)
    server = _Uvicorn(config)
    server.started_call = started
    server.run(sockets=[listening])


class _Uvicorn(uvicorn.Server):
    """uvicorn, which says when it has started."""

    started_call: Callable[[], object]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self.started_call()


async def _index(request: Request) -> Response:
    return FileResponse(PAGE / "index.html")


def _answered(handle: Callable[[Request], Awaitable[Any]]) -> Callable[[Request], Awaitable[Response]]:
    """A handler whose refusals become one sentence in JSON."""

    async def answer(request: Request) -> Response:
        try:
            result = await handle(request)
        except Refused as error:
            return JSONResponse({"error": str(error)}, status_code=error.status)
        except (ImportError, MemoryError, OSError, TypeError, ValueError) as error:
            words = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
            return JSONResponse({"error": words or "There is not enough memory for this."}, status_code=400)
        except Exception:
            _LOG.exception("%s failed", request.url.path)
            return JSONResponse({"error": "eigenstep itself failed; the terminal says where."}, status_code=500)
        return PlainTextResponse(result) if isinstance(result, str) else JSONResponse(result)

    return answer


class _Server:
    """The handlers; numbers are worked out in threads, so that the page stays quick meanwhile."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.drops: dict[str, Path] = {}

    def close(self) -> None:
        """Delete copies of images that nobody has measured."""
        for folder in self.drops.values():
            shutil.rmtree(folder, ignore_errors=True)

    async def options(self, request: Request) -> Any:
        return await run_in_threadpool(self.desk.options)

    async def view(self, request: Request) -> Any:
        return await run_in_threadpool(lambda: self.desk.view(self.desk.state(request.query_params)))

    async def steps(self, request: Request) -> Any:
        given = request.query_params.get("n", "")
        if not given.isdecimal():
            raise Refused(f"`n` must be a whole number from 1 to {MOST_STEPS}, got {given!r}.")
        n = integer(int(given), "n", maximum=MOST_STEPS)
        # The moved levels are of one number of steps only.
        query = {key: value for key, value in request.query_params.items() if key != "sigmas"}
        return await run_in_threadpool(lambda: self.desk.steps(self.desk.state(query), n))

    async def interval(self, request: Request) -> Any:
        return await run_in_threadpool(lambda: self.desk.interval(self.desk.state(request.query_params)))

    async def copied(self, request: Request) -> Any:
        form = request.query_params.get("format", "")
        return await run_in_threadpool(lambda: self.desk.copied(self.desk.state(request.query_params), form))

    async def receive_spectrum(self, request: Request) -> Any:
        name = Path(request.query_params.get("name", "")).name
        suffix = Path(name).suffix.lower()
        if suffix not in (".json", ".npz"):
            raise Refused(f"{name!r} is no saved spectrum: choose a .json or .npz file that `eigenstep spectrum` wrote.")
        with tempfile.TemporaryDirectory(prefix="eigenstep-") as folder:
            path = Path(folder) / f"spectrum{suffix}"
            await _received(request, path, name, MOST_SPECTRUM_BYTES)
            return {"key": await run_in_threadpool(self.desk.shelf.load, path, name)}

    async def measure_folder(self, request: Request) -> Any:
        asked = await _object(request)
        folder = str(asked.get("folder", "")).strip()
        if not folder:
            raise Refused("`folder` is empty: write the path of a folder of images on this machine.")
        return {"job": self.desk.shelf.measure(folder, size=_size(asked))}

    async def begin_drop(self, request: Request) -> Any:
        folder = Path(tempfile.mkdtemp(prefix="eigenstep-"))
        self.drops[folder.name] = folder
        return {"drop": folder.name}

    async def receive_image(self, request: Request) -> Any:
        folder = self._drop(request)
        name = request.query_params.get("name", "")
        suffix = Path(name).suffix.lower()
        if suffix not in IMAGE_SUFFIXES:
            raise Refused(f"{name!r} is no image; known are {', '.join(IMAGE_SUFFIXES)}.")
        kept = sum(file.stat().st_size for file in folder.iterdir())
        if kept > MOST_FOLDER_BYTES:
            raise Refused(
                f"The images come to more than {MOST_FOLDER_BYTES >> 30} GiB; write the folder's path instead, which copies "
                "nothing.",
                413,
            )
        # A name of our own: the reader's could lead elsewhere.
        await _received(request, folder / f"{len(list(folder.iterdir())):08d}{suffix}", name, MOST_IMAGE_BYTES)
        return {}

    async def measure_drop(self, request: Request) -> Any:
        folder, asked = self._drop(request), await _object(request)
        del self.drops[folder.name]
        name = Path(str(asked.get("name", ""))).name or "dropped"
        return {"job": self.desk.shelf.measure(str(folder), name=name, size=_size(asked), discard=True)}

    async def network(self, request: Request) -> Any:
        return await run_in_threadpool(lambda: self.desk.about_network(self.desk.state(request.query_params)))

    async def measure_network(self, request: Request) -> Any:
        return {"job": await run_in_threadpool(self.desk.measure_network)}

    async def compare_network(self, request: Request) -> Any:
        state = self.desk.state(request.query_params)
        return {"job": await run_in_threadpool(self.desk.compare_network, state)}

    async def job(self, request: Request) -> Any:
        return self.desk.shelf.jobs.job(request.path_params["job"]).record()

    async def stop(self, request: Request) -> Any:
        self.desk.shelf.jobs.job(request.path_params["job"]).cancelled = True
        return {}

    def _drop(self, request: Request) -> Path:
        folder = self.drops.get(request.path_params["drop"])
        if folder is None:
            raise Refused("These images are not known to this server, which may have been started again; drop them once more.")
        return folder


async def _object(request: Request) -> dict[str, Any]:
    try:
        asked = json.loads(await request.body())
    except ValueError:
        asked = None
    if not isinstance(asked, dict):
        raise Refused("The request must be a JSON object.")
    return asked


def _size(asked: dict[str, Any]) -> int | None:
    given = str(asked.get("size") or "").strip()
    if not given:
        return None
    if not given.isdecimal() or int(given) < 1:
        raise Refused(f"`size` must be a whole number of pixels such as 32, or empty, got {given!r}.")
    return int(given)


async def _received(request: Request, path: Path, name: str, most: int) -> None:
    """Write the body of a request to a file, unless it is too large: then nothing is read."""
    refusal = Refused(f"{name!r} is larger than {most >> 20} MiB; that is too much for this page.", 413)
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        raise refusal
    received = 0
    with path.open("wb") as stream:
        async for chunk in request.stream():
            received += len(chunk)
            if received > most:
                raise refusal
            stream.write(chunk)


class _Guarded:
    """Headers on every response, and no changes on behalf of pages from elsewhere."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        origin = headers.get("origin")
        if scope["method"] != "GET" and origin is not None and urlsplit(origin).netloc != headers.get("host"):
            refused = JSONResponse({"error": "This request comes from another page."}, status_code=403)
            await refused(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *added]
            await send(message)

        await self.app(scope, receive, with_headers)
