"""The door of the page's server: who may ask, what, and in which form; all else gets a sentence.

A browser sends any page's requests to this server, also by a name that its owner points here (DNS
rebinding). So only names that the page is served under are answered, and only the page's own
scripts may send. Gradio's routes that fetch for a visitor, or do what the page does not use, are
closed, and files are those that were uploaded: no address in a request is ever looked up.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ..errors import InputError
from .visitors import Visitors

Scope = MutableMapping[str, Any]
Asgi = Callable[..., Awaitable[None]]

_API = "/gradio_api"
# What the page's own script asks for; the first part of the path decides.
_GET = ("", "config", "theme.css", "assets", "static", "favicon.ico", "robots.txt", "manifest.json")
_GET_API = (
    "info",
    "app_id",
    "startup-events",
    "heartbeat",
    "queue",
    "upload_progress",
    "theme.css",
)
_POST_API = ("queue/join", "upload", "cancel", "reset")
_BODY = 1 << 20  # bytes of a request that is no upload
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_ANY = ("", "0.0.0.0", "::")  # addresses to listen at everywhere


class Gate:
    """ASGI middleware around Gradio's app.

    Args:
        app: what it guards.
        host: the address that is listened at.
        names: further names that the page is served under, such as a reverse proxy's.
        visitors: told who is connected.
        functions: number of the page's functions.
        uploads: the folder of uploaded files.
    """

    def __init__(
        self,
        app: Asgi,
        host: str,
        names: Iterable[str],
        visitors: Visitors,
        functions: Callable[[], int],
        uploads: Path,
    ) -> None:
        self.app, self.visitors, self.functions = app, visitors, functions
        self.everywhere = host in _ANY
        self.proxies = {name.lower() for name in names}
        self.names = {*self.proxies, host.lower(), *_LOOPBACK}
        self.uploads = uploads

    async def __call__(self, scope: Scope, receive: Asgi, send: Asgi) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return None  # the page has no other connections
        try:
            self._check_sender(scope)
            self._check_route(scope)
            if scope["method"] == "POST" and not scope["path"].startswith(f"{_API}/upload"):
                body = self._checked_body(scope, await _body(receive))
                scope, receive = _with_length(scope, len(body)), _again(body, receive)
        except _RefusedError as refused:
            return await _answer(send, refused)
        session = _session(scope)
        if session is None:
            return await self.app(scope, receive, send)
        return await self._while_connected(session, scope, receive, send)

    async def _while_connected(self, session: str, scope: Scope, receive: Asgi, send: Asgi) -> None:
        """A visitor's stream. Gradio sees that he is gone when it sends; the work ends at once."""
        waiting, gone = [await receive()], asyncio.Event()
        with ExitStack() as connection:
            connection.enter_context(self.visitors.connected(session))

            async def watch() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                connection.close()
                gone.set()

            async def own_receive() -> Any:
                if waiting:
                    return waiting.pop()
                await gone.wait()
                return {"type": "http.disconnect"}

            watching = asyncio.create_task(watch())
            try:
                await self.app(scope, own_receive, send)
            finally:
                watching.cancel()

    # ---- who ------------------------------------------------------------------------------------

    def _check_sender(self, scope: Scope) -> None:
        headers = _headers(scope)
        host = headers.get("host", "")
        name = _name(f"//{host}")
        here = {*self.names}
        if self.everywhere and scope.get("server"):
            here.add(str(scope["server"][0]))  # the address that the visitor reached
        if name not in here:
            raise _RefusedError(
                421,
                f"This server answers to {', '.join(sorted(self.names))} only, not to {name!r}; "
                "--allow-host adds a name.",
            )
        origin = headers.get("origin")
        if origin is None:
            foreign = headers.get("sec-fetch-site") == "cross-site"
            if foreign and (scope["method"] != "GET" or scope["path"].startswith(_API)):
                raise _RefusedError(403, "Only this page's own scripts may ask this server.")
            return
        if urlsplit(origin).netloc.lower() != host.lower() and _name(origin) not in self.proxies:
            raise _RefusedError(
                403, f"Only this page's own scripts may ask this server, not those of {origin!r}."
            )

    # ---- what -----------------------------------------------------------------------------------

    def _check_route(self, scope: Scope) -> None:
        method, path = scope["method"], scope["path"]
        if method in ("GET", "HEAD"):
            if path.startswith(f"{_API}/"):
                first = path[len(_API) + 1 :].split("/")[0]
                if first in _GET_API or first.startswith("file="):
                    return
            elif path.lstrip("/").split("/")[0] in _GET:
                return
        elif method == "POST" and path.removeprefix(f"{_API}/").rstrip("/") in _POST_API:
            return
        raise _RefusedError(404, f"The page has no {method} {path[:200]!r}.")

    def _checked_body(self, scope: Scope, body: bytes) -> bytes:
        """The body as Gradio takes it.

        Raises:
            _RefusedError: it is no request that the page could send.
        """
        try:
            content = json.loads(body or b"{}")
        except (ValueError, RecursionError):
            raise _RefusedError(400, "The request is not JSON.") from None
        if not isinstance(content, dict):
            raise _RefusedError(400, "The request: expected a JSON object.")
        if not scope["path"].rstrip("/").endswith("/queue/join"):
            return body
        number, data = content.get("fn_index"), content.get("data")
        if type(number) is not int or not 0 <= number < self.functions():
            raise _RefusedError(
                400,
                f"fn_index: expected an integer from 0 to {self.functions() - 1}, but got "
                f"{str(number)[:50]!r}.",
            )
        if not isinstance(data, list):
            raise _RefusedError(400, "data: expected a list with a value for every input.")
        session = content.get("session_hash")
        if not isinstance(session, str) or not 0 < len(session) <= 64:
            raise _RefusedError(400, "session_hash: expected up to 64 letters.")
        for key, kinds in (("event_data", dict | None), ("trigger_id", int | None)):
            if not isinstance(content.get(key), kinds):
                raise _RefusedError(400, f"{key}: expected another kind of value.")
        content = {key: content.get(key) for key in _KEYS}
        content["data"] = [self._uploaded(value) for value in data]
        return json.dumps(content).encode()

    def _uploaded(self, value: Any, depth: int = 0) -> Any:
        """A value whose files are uploaded ones, without addresses.

        Raises:
            _RefusedError: a file that is not.
        """
        if depth > 8:
            raise _RefusedError(400, "data: a value within too many others.")
        if isinstance(value, list):
            return [self._uploaded(one, depth + 1) for one in value]
        if not isinstance(value, dict):
            return value
        if "path" in value or "url" in value or "meta" in value:
            path = value.get("path")
            if not isinstance(path, str) or not self._is_upload(path):
                raise _RefusedError(
                    400, "data: expected an uploaded file; neither addresses nor paths are read."
                )
            value = {**value, "url": None}
        return {key: self._uploaded(one, depth + 1) for key, one in value.items()}

    def _is_upload(self, path: str) -> bool:
        try:
            found = Path(path).resolve()
            return found.is_relative_to(self.uploads.resolve()) and found.is_file()
        except (OSError, ValueError):  # such as a name that is too long
            return False


_KEYS = ("fn_index", "data", "session_hash", "event_data", "trigger_id")


class _RefusedError(InputError):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def _headers(scope: Scope) -> dict[str, str]:
    return {
        key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]
    }


def _name(url: str) -> str:
    """The host's name of an address, without its port; '' for what is none."""
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""


def _session(scope: Scope) -> str | None:
    """Whose stream a request opens; None for other requests."""
    path = scope["path"]
    if path.startswith(f"{_API}/heartbeat/"):
        return path.rpartition("/")[2]
    if path == f"{_API}/queue/data":
        return parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [None])[0]
    return None


async def _body(receive: Asgi) -> bytes:
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise _RefusedError(400, "The request broke off.")
        body += message.get("body", b"")
        if len(body) > _BODY:
            raise _RefusedError(413, f"The request has more than {_BODY} bytes.")
        if not message.get("more_body"):
            return body


def _again(body: bytes, receive: Asgi) -> Asgi:
    """A ``receive`` that begins with a body that was read already."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def answer() -> Any:
        return waiting.pop() if waiting else await receive()

    return answer


def _with_length(scope: Scope, length: int) -> Scope:
    own = [(key, value) for key, value in scope["headers"] if key.lower() != b"content-length"]
    return {**scope, "headers": [*own, (b"content-length", str(length).encode())]}


async def _answer(send: Asgi, refused: _RefusedError) -> None:
    body = json.dumps({"detail": str(refused)}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
