"""A Qdrant server for tests: the part of the REST interface that our own classes speak, over an `EdgeClient`.

It replaces another machine, which a test does not have: requests come over a socket, from any process, as the
JSON that qdrant-client makes of them, and the engine behind it is Qdrant's own.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, TypeAdapter
from qdrant_client import models
from qdrant_client.http.exceptions import UnexpectedResponse

from situate.errors import SituateError
from situate.retrievers.storage.edge import EdgeClient

_Answer = Callable[[EdgeClient, str, Any], Any]


def _create(client: EdgeClient, name: str, body: models.CreateCollection) -> bool:
    known = {"vectors": "vectors_config", "sparse_vectors": "sparse_vectors_config"}
    return client.create_collection(name, **{known.get(k, k): v for k, v in _fields(body).items()})


def _upsert(client: EdgeClient, name: str, body: Any) -> Any:
    return client.upsert(name, body.points if isinstance(body, models.PointsList) else body.batch)


def _change(method: str) -> _Answer:
    def answer(client: EdgeClient, name: str, body: Any) -> Any:
        selected = body.points if body.points is not None else models.FilterSelector(filter=body.filter)
        given = {"keys": body.keys} if method == "delete_payload" else {"payload": body.payload, "key": body.key}
        return getattr(client, method)(name, points=selected, **given)

    return answer


def _scroll(client: EdgeClient, name: str, body: models.ScrollRequest) -> models.ScrollResult:
    fields = _fields(body)
    points, after = client.scroll(name, **_renamed(fields, filter="scroll_filter", with_vector="with_vectors"))
    return models.ScrollResult(points=points, next_page_offset=after)


def _query(client: EdgeClient, name: str, body: models.QueryRequest) -> Any:
    fields = _renamed(_fields(body), filter="query_filter", params="search_params", with_vector="with_vectors")
    return client.query_points(name, **fields)


def _fields(body: BaseModel) -> dict[str, Any]:
    return {name: getattr(body, name) for name in body.model_fields_set}


def _renamed(fields: dict[str, Any], **names: str) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in fields.items()}


#: Method, path below the collection, type of the body, what answers it.
_ROUTES: list[tuple[str, str, Any, _Answer]] = [
    ("GET", "", None, lambda client, name, _: client.get_collection(name)),
    ("GET", "/exists", None, lambda client, name, _: {"exists": client.collection_exists(name)}),
    ("PUT", "", models.CreateCollection, _create),
    (
        "PATCH",
        "",
        models.UpdateCollection,
        lambda client, name, body: client.update_collection(name, **_fields(body)),
    ),
    ("DELETE", "", None, lambda client, name, _: client.delete_collection(name)),
    (
        "PUT",
        "/index",
        models.CreateFieldIndex,
        lambda client, name, body: client.create_payload_index(name, body.field_name, body.field_schema),
    ),
    ("PUT", "/points", models.PointInsertOperations, _upsert),
    (
        "POST",
        "/points",
        models.PointRequest,
        lambda client, name, body: client.retrieve(name, **_renamed(_fields(body), with_vector="with_vectors")),
    ),
    ("POST", "/points/delete", models.PointsSelector, lambda client, name, body: client.delete(name, body)),
    ("POST", "/points/payload", models.SetPayload, _change("set_payload")),
    ("POST", "/points/payload/delete", models.DeletePayload, _change("delete_payload")),
    (
        "POST",
        "/points/count",
        models.CountRequest,
        lambda client, name, body: client.count(name, **_renamed(_fields(body), filter="count_filter")),
    ),
    ("POST", "/points/scroll", models.ScrollRequest, _scroll),
    ("POST", "/points/query", models.QueryRequest, _query),
    (
        "POST",
        "/points/query/batch",
        models.QueryRequestBatch,
        lambda client, name, body: client.query_batch_points(name, body.searches),
    ),
    (
        "POST",
        "/points/batch",
        models.UpdateOperations,
        lambda client, name, body: client.batch_update_points(name, body.operations),
    ),
]
_COLLECTION = re.compile(r"^/collections/(?P<name>[^/]+)(?P<rest>.*)$")


class RestServer:
    """Serves one store on a free port of this machine; ``key`` is what callers must bring."""

    def __init__(self, client: EdgeClient, key: str | None = None) -> None:
        outer = self
        self.client = client
        self.key = key
        self.requests: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                status, answered = outer.answer(self.command, urlsplit(self.path).path, body, self.headers)
                data = json.dumps(answered).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = answer

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def answer(self, method: str, path: str, body: bytes, headers: Any) -> tuple[int, dict[str, Any]]:
        """Status and body of an answer."""
        self.requests.append(f"{method} {path}")
        if self.key is not None and headers.get("api-key") != self.key:
            return 401, {"status": {"error": "Must provide an API key"}, "time": 0}
        if path == "/":
            return 200, {"title": "qdrant", "version": "1.20.0"}
        found = _COLLECTION.match(path)
        for verb, rest, kind, call in _ROUTES:
            if found is not None and (verb, rest) == (method, found["rest"]):
                try:
                    given = TypeAdapter(kind).validate_json(body) if kind is not None else None
                    result = call(self.client, unquote(found["name"]), given)
                except UnexpectedResponse as error:
                    return error.status_code or 500, {"status": {"error": str(error)}, "time": 0}
                except (SituateError, ValueError) as error:
                    return 400, {"status": {"error": str(error)}, "time": 0}
                return 200, {"result": _plain(result), "status": "ok", "time": 0}
        return 404, {"status": {"error": f"{method} {path} is not served here"}, "time": 0}

    def stop(self) -> None:
        """Stops answering; the client stays open."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_none=True)
    return [_plain(item) for item in value] if isinstance(value, list) else value
