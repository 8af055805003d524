"""What the broker's two HTTP applications share: bodies, errors as JSON, Arrow answers that end with their caller."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from workbench.broker.caller import NOTICE_HEADER, Answer
from workbench.broker.law import NOTICE_NAME
from workbench.broker.shelf import SliceBuilding
from workbench.errors import WorkbenchError

ARROW_STREAM = "application/vnd.apache.arrow.stream"
MAX_BODY = 2 << 20
"""Bytes of a request's body; the gate's own limit is far below."""

BODY_SECONDS = 30.0
"""How long a request's body may take."""
MAX_PARAMETERS, LONGEST_PARAMETER = 20, 100

_log = logging.getLogger("workbench.broker")
Handler = Callable[[Request], Awaitable[Response]]


class BadRequest(WorkbenchError):
    """The request is not what this path takes."""

    code = "bad-request"


class _CallerGone(Exception):
    """The caller closed the connection."""


async def bounded_body(request: Request, most: int) -> bytes:
    """The request's body of at most `most` bytes. Raises BadRequest for a longer or a slower one."""
    raw = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                raw += chunk
                if len(raw) > most:
                    raise BadRequest("The request is too long.", code="too-long", http_status=413)
    except TimeoutError:
        raise BadRequest("The request did not come to its end.", code="too-slow", http_status=408) from None
    return bytes(raw)


async def body_of(request: Request) -> dict[str, Any]:
    """The request's JSON object. Raises BadRequest."""
    raw = await bounded_body(request, MAX_BODY)
    try:
        value = json.loads(raw)
        if b"\\u" in raw:
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError):
        raise BadRequest("The request is not JSON.", hint="Send a JSON object.") from None
    if not isinstance(value, dict):
        raise BadRequest("The request is not a JSON object.", hint="Send a JSON object.")
    return value


def operator_of(request: Request) -> str:
    """`operator:NAME`, the account at the other end of the control socket, as the kernel says."""
    return f"operator:{request.state.operator}"


def text_of(body: dict[str, Any], name: str) -> str:
    """A text of the request. Raises BadRequest."""
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise BadRequest(f"The request needs a text {name!r}.")
    return value


_ADDRESS = frozenset({"table", "params", "grant", "as", "purpose", "release"})


def spec_of(body: dict[str, Any]) -> dict[str, Any]:
    """The tabulation that `{"table": …, "year": …}` asks for; parameters may stand in `params` too. Raises BadRequest."""
    params = body.get("params") or {}
    if not isinstance(params, dict):
        raise BadRequest("The parameters of a table are an object.")
    flat = {name: value for name, value in body.items() if name not in _ADDRESS} | params
    if len(flat) > MAX_PARAMETERS or any(
        len(f"{name}{value}") > LONGEST_PARAMETER for name, value in flat.items()
    ):
        raise BadRequest("The table has more or longer parameters than any table takes.")
    if "table" in params:
        raise BadRequest("The table's name does not stand among its parameters.")
    return {"table": text_of(body, "table"), **{str(k): v for k, v in flat.items() if v is not None}}


def json_answer(content: Mapping[str, Any], status: int = 200) -> Response:
    """JSON; with the notice of 42 CFR 2.32 named in the head where its text stands in the content."""
    headers = {NOTICE_HEADER: NOTICE_NAME} if content.get("notice") else {}
    return JSONResponse(content, status, headers)


def error_response(error: WorkbenchError) -> Response:
    """`{"code", "reason", "hint"}` with the error's status; 202 and 429 say when to come again."""
    content: dict[str, Any] = dict(error.as_json())
    headers = {}
    if isinstance(error, SliceBuilding):
        content["progress"] = {"step": error.step, "done": error.done}
        headers["Retry-After"] = "1"
    elif (seconds := getattr(error, "retry_after", None)) is not None:
        headers["Retry-After"] = str(seconds)
    elif error.http_status == 503:
        headers["Retry-After"] = "2"
    elif error.http_status in (408, 413):
        headers["Connection"] = "close"
    elif error.http_status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(content, error.http_status, headers)


def failure_response(error: Exception) -> Response:
    """What a caller learns of a fault of the broker: nothing but that. The log gets the places, no values."""
    places = " < ".join(
        f"{f.name}:{f.lineno}" for f in reversed(traceback.extract_tb(error.__traceback__)[-6:])
    )
    _log.error("%s in %s", type(error).__name__, places)
    content = {
        "code": "broker-error",
        "reason": "The broker failed on this request.",
        "hint": "Tell your operator.",
    }
    return JSONResponse(content, 500)


def answering(handler: Handler) -> Handler:
    """The handler, with its errors as JSON."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except ClientDisconnect:
            return Response(status_code=499)
        except WorkbenchError as error:
            return error_response(error)
        except Exception as error:
            return failure_response(error)

    return answer


class ArrowEndpoint:
    """A path that answers with a stream, of Arrow or of another kind. What it holds is given back as soon as the caller is gone."""

    def __init__(
        self,
        ask: Callable[[Request], Awaitable[Answer]],
        *,
        media: str = ARROW_STREAM,
        takes_body: bool = True,
    ):
        self._ask = ask
        self._media = media
        self._takes_body = takes_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request; before the first byte with a status, afterwards by cutting the stream off."""
        started = False

        async def telling(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        request = Request(scope, receive)
        try:
            scope["body"] = await body_of(request) if self._takes_body else {}
            async with _while_caller_listens(receive):
                answer = await self._ask(request)
                await _stream(answer, self._media, telling)
        except (_CallerGone, ClientDisconnect):
            return
        except WorkbenchError as error:
            if not started:
                await error_response(error)(scope, receive, send)
        except Exception as error:
            response = failure_response(error)
            if not started:
                await response(scope, receive, send)


async def _stream(answer: Answer, media: str, send: Send) -> None:
    headers = {"content-type": media, "cache-control": "no-store", **answer.headers}
    raw = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
    try:
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        async for chunk in answer.chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    finally:
        await answer.chunks.aclose()


@contextlib.asynccontextmanager
async def _while_caller_listens(receive: Receive) -> AsyncIterator[None]:
    """Cancels the block when the caller closes the connection, and raises _CallerGone in its place."""
    task = asyncio.current_task()
    assert task is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if gone:
            task.uncancel()
            raise _CallerGone from None
        raise
    finally:
        watcher.cancel()
