# SPDX-License-Identifier: Apache-2.0
"""The pipeline: one ASGI application per service, made from its tables.

In this order for every request: request id, microversion, row, token, policy,
body, handler, answer or fault. No handler sees a request that failed a check
before it, and every answer carries the request id and version headers.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import falcon
import falcon.asgi
import msgspec
import orjson

from cumulet.kernel import clock, context, fences, ids, trace
from cumulet.kernel.context import Context
from cumulet.kernel.errors import (
    Fault,
    Internal,
    Invalid,
    MethodNotAllowed,
    NotFound,
    TooLarge,
    Unauthorized,
    UnsupportedMedia,
)
from cumulet.kernel.http.access import AccessRule, permits
from cumulet.kernel.http.request import Answer, Incoming, Request, Watch
from cumulet.kernel.http.route import Route
from cumulet.kernel.http.versions import Version, Versions, within
from cumulet.kernel.policy import Policy

_log = logging.getLogger(__name__)
_REQUEST_ID = re.compile(r"^req-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
_HEX = re.compile(r"^[0-9a-f]{32}$")
_HOST = re.compile(r"^[A-Za-z0-9.\-:\[\]_]{1,255}$")


class Verified(msgspec.Struct, frozen=True):
    """What a token stands for, as identity answered."""

    context: Context
    expires_at: float
    cached: bool = False
    access_rules: list[AccessRule] | None = None
    """The only operations that the token is good for; None: all."""


class Authenticator(Protocol):
    """How a service learns whom a token belongs to."""

    async def verify(self, token: str, *, allow_expired: bool = False) -> Verified:
        """Raises Unauthorized for a bad token and Unavailable when identity can't be asked."""


@dataclass(frozen=True)
class Flow:
    """The names under which this service's token validations appear in a server's flow."""

    request: str
    answer: str | None = None
    always: bool = False
    """Record also for requests that carry no flow yet (the request that starts one)."""


class Dialect(Protocol):
    """A service's published way of saying that something is wrong."""

    def fault(self, fault: Fault, request: FaultRequest) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (with Content-Type) and body."""


@dataclass(frozen=True)
class FaultRequest:
    """What a dialect may know about the request that failed."""

    request_id: str
    version: Version | None
    accept: str
    base: str
    path: str
    authenticated: bool


Observer = Callable[["Api", Route, Request, Answer], None]
"""Sees every successful answer before it leaves."""


class Api:
    """A service's ASGI application.

    ``strip_project`` is a prefix such as ``/v3`` after which an optional project
    id stands in the path; it must be the caller's own and is then ignored.
    ``json_only`` refuses bodies that do not say that they are JSON. Without
    ``trailing_slash`` a path that ends with a slash names nothing (an empty id),
    but for the version roots. The document of all its routes is at `/openapi.json`.
    """

    observer: ClassVar[Observer | None] = None
    """The tests' hook: which rows were used, and whether answers have their declared shape."""

    def __init__(
        self,
        name: str,
        routes: Iterable[Route],
        *,
        dialect: Dialect,
        policy: Policy,
        service: Any,
        authenticator: Authenticator,
        versions: Versions | None = None,
        component: str,
        host: str = "",
        strip_project: str | None = None,
        flow: Flow | None = None,
        max_body: int = 114_688,
        extra_headers: Callable[[str], dict[str, str]] | None = None,
        json_only: bool = False,
        trailing_slash: bool = True,
        types: tuple[str, ...] = (),
        fences: fences.Fences | None = None,
    ) -> None:
        self.name, self.routes = name, [*routes, Route("GET /openapi.json", self._openapi, public=True)]
        self._document: dict[str, Any] | None = None
        self.dialect, self.policy, self.service, self.authenticator = dialect, policy, service, authenticator
        self.versions, self.component, self.host = versions, component, host
        self.strip_project, self.flow, self.max_body, self.extra_headers = strip_project, flow, max_body, extra_headers
        self.json_only = json_only
        self.types, self.fences = types or (name,), fences
        self._app = falcon.asgi.App()
        self._app.req_options.strip_url_path_trailing_slash = trailing_slash
        self._app.resp_options.default_media_type = None  # type: ignore[assignment]  # no body, no type
        self._app.add_error_handler(Exception, self._uncaught)
        templates: dict[str, dict[str, list[Route]]] = {}
        for route in self.routes:
            templates.setdefault(route.template, {}).setdefault(route.method, []).append(route)
        for template, methods in templates.items():
            self._app.add_route(template, _resource(self, methods))
            if not trailing_slash and template != "/" and all(row.public for rows in methods.values() for row in rows):
                self._app.add_route(template + "/", _resource(self, methods))
        self._app.add_sink(self._unrouted)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            receive = Watch(receive)
            scope = {**scope, "cumulet.watch": receive}
            path: str = scope["path"]
            if self.strip_project is not None and path.startswith(self.strip_project + "/"):
                head, _, rest = path[len(self.strip_project) + 1 :].partition("/")
                if _HEX.match(head):
                    scope = {**scope, "path": f"{self.strip_project}/{rest}", "cumulet.project": head}
                    scope["cumulet.path"] = path
        await self._app(scope, receive, send)

    # ---- the pipeline

    async def serve(self, methods: dict[str, list[Route]], req: Any, resp: Any, params: dict[str, str]) -> None:
        """Carry out one request on the rows of its template."""
        started = clock.monotonic()
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in req.scope["headers"]}
        caller = self._new_context(headers, req.scope)
        context.use(caller)
        trace.resume(self.component, self.host, _baggage(headers.get("baggage", "")))
        version: Version | None = None
        try:
            version = self.versions.of(headers) if self.versions else None
            request = await self._prepare(methods, req, params, headers, caller, version)
            answer = await request[0].handler(request[1])
            self._answer(resp, *request, answer)
        except Exception as error:
            fault = self._as_fault(error)
            self._fault(resp, fault, headers, version, req.path)
        finally:
            fences.leave()
        self._stamp(resp, version)
        caller = context.current() or caller
        _log.info(
            "%s %s%s %s %.1f ms", req.method, req.scope.get("root_path", ""), req.path,
            resp.status_code, (clock.monotonic() - started) * 1000,
        )  # fmt: skip

    async def _prepare(
        self,
        methods: dict[str, list[Route]],
        req: Any,
        params: dict[str, str],
        headers: dict[str, str],
        caller: Context,
        version: Version | None,
    ) -> tuple[Route, Request]:
        rows = methods.get(req.method) or (methods.get("GET") if req.method == "HEAD" else None)
        if rows is None:
            fault = MethodNotAllowed(f"The method {req.method} is not allowed for this resource.")
            fault.headers["Allow"] = ", ".join(sorted(methods))
            raise fault
        if not all(row.public for row in rows):
            caller = await self._authenticate(headers, caller, req.scope)
            context.use(caller)
            named = req.scope.get("cumulet.project")
            if named is not None and caller.project_id is not None and named != caller.project_id:
                raise Invalid(
                    f"Malformed request URL: URL's project_id '{named}' doesn't match "
                    f"Context's project_id '{caller.project_id}'"
                )
        rows = [row for row in rows if version is None or within(version, row.since, row.until)]
        if not rows:
            raise NotFound("The resource could not be found.")
        sent = None if all(row.raw for row in rows) else await self._parse(rows, req, headers)
        row = self._select(rows, sent)
        if self.fences is not None and req.method not in ("GET", "HEAD"):
            await self.fences.enter(headers, caller, params, sent)
        request = Request(
            method=req.method,
            path=req.path,
            params=params,
            headers=headers,
            context=caller,
            version=version,
            base=caller.base + req.scope.get("root_path", ""),
            policy=self.policy,
            service=self.service,
            query_text=req.query_string,
            sent=sent,
            stream=Incoming(req.stream, req.scope["cumulet.watch"]) if row.raw else None,
            watch=req.scope["cumulet.watch"],
            remote=(req.scope.get("client") or ("",))[0],
        )
        target = await row.target(request) if row.target is not None else None
        if row.policy is not None and not row.late:
            self.policy.enforce(row.policy, caller, target)

        def allows(rule: str) -> bool:
            return self.policy.allows(rule, caller, target)

        if row.query is not None:
            request.query = row.query.lift(req.query_string, version, allows)
        if row.body is not None and not (sent is None and row.body_optional):
            request.body = row.body.lift(sent, version, allows)
        return row, request

    async def _authenticate(self, headers: dict[str, str], caller: Context, scope: Any) -> Context:
        token = headers.get("x-auth-token")
        if not token:
            raise Unauthorized
        started, tick = clock.now(), clock.monotonic()
        service_roles: list[str] = []
        if service_token := headers.get("x-service-token"):
            service_roles = (await self.authenticator.verify(service_token)).context.roles
        verified = await self.authenticator.verify(token, allow_expired="service" in service_roles)
        rules = verified.access_rules
        if rules is not None and "service" not in service_roles:  # a service's own request is not the user's
            path = scope.get("cumulet.path", scope["path"])
            if not permits(rules, self.types, scope["method"], scope.get("root_path", ""), path):
                raise Unauthorized
        caller = msgspec.structs.replace(
            verified.context,
            request_id=caller.request_id,
            global_id=caller.global_id,
            base=caller.base,
            token=token,
            service_roles=service_roles,
        )
        current = trace.current()
        if current is not None and not caller.is_service:
            current.subject, current.attempt = None, 1  # only a service may say whose flow this is
        if self.flow is not None and current is not None and (current.subject or self.flow.always):
            context.use(caller)
            spent = (clock.monotonic() - tick) * 1000
            trace.record(self.flow.request, started=started, duration_ms=spent, detail={"cached": verified.cached})
            if self.flow.answer is not None:
                trace.record(self.flow.answer, detail={"roles": caller.roles, "project_id": caller.project_id})
        return caller

    async def _parse(self, rows: list[Route], req: Any, headers: dict[str, str]) -> Any:
        wants = any(row.body is not None or row.action is not None for row in rows)
        if not wants:
            return None
        if self.json_only:
            self._must_be_json(headers)
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self.max_body:
            raise TooLarge
        data = await req.stream.read(self.max_body + 1)
        if len(data) > self.max_body:
            raise TooLarge
        if not data:
            if all(row.body_optional or row.body is None for row in rows) and not any(row.action for row in rows):
                return None
            raise Invalid("Malformed request body: a JSON document is required.")
        kind = headers.get("content-type", "application/json").split(";")[0].strip().lower()
        if kind not in ("application/json", "text/plain", "") and not kind.endswith("+json"):
            raise UnsupportedMedia(f"Unsupported Content-Type {kind[:80]!r}: application/json is expected.")
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise Invalid(f"Malformed request body: the body is not valid JSON ({error}).") from None

    @staticmethod
    def _must_be_json(headers: dict[str, str]) -> None:
        kind = headers.get("content-type", "").split(";")[0].strip().lower()
        if not kind and headers.get("content-length", "0") != "0":
            raise Invalid("content-type header required")
        if kind != "application/json":
            raise UnsupportedMedia(f"The media type {kind[:80] or None} is not supported, use application/json")

    def _select(self, rows: list[Route], sent: Any) -> Route:
        if rows[0].action is None:
            return rows[0]
        if not isinstance(sent, dict) or len(sent) != 1:
            raise Invalid("Malformed request body: exactly one action is expected.")
        action = next(iter(sent))
        for row in rows:
            if row.action == action:
                return row
        raise Invalid(f"There is no such action: {action[:80]}")

    # ---- answers

    def document(self, server: str) -> dict[str, Any]:
        """The OpenAPI document; ``server`` is the URL or path below which this service lies."""
        from cumulet.kernel.http.openapi import describe

        if self._document is None:
            self._document = describe(self, server)
        return {**self._document, "servers": [{"url": server}]}

    async def _openapi(self, request: Request) -> dict[str, Any]:
        return self.document(request.base)

    def _answer(
        self, resp: Any, row: Route, request: Request, answer: Answer | dict[str, Any] | list[Any] | None
    ) -> None:
        if not isinstance(answer, Answer):
            answer = Answer(body=answer)
        if Api.observer is not None:
            Api.observer(self, row, request, answer)
        status = answer.status or row.ok
        resp.status = status
        for name, value in answer.headers.items():
            resp.set_header(name, value)
        if answer.stream is not None:
            resp.content_type = answer.content_type or "application/octet-stream"
            resp.stream = answer.stream
        elif answer.body is not None and status not in (204, 304):
            data = answer.body if isinstance(answer.body, bytes) else orjson.dumps(answer.body)
            resp.content_type = answer.content_type or "application/json"
            resp.data = data

    def _as_fault(self, error: Exception) -> Fault:
        if isinstance(error, Fault):
            return error
        if isinstance(error, falcon.HTTPError):
            return Invalid(error.description or error.title or "The request is invalid.")
        _log.exception("unexpected error")
        return Internal()

    def _fault(self, resp: Any, fault: Fault, headers: dict[str, str], version: Version | None, path: str) -> None:
        caller = context.current()
        told = FaultRequest(
            request_id=caller.request_id if caller else ids.new_request_id(),
            version=version,
            accept=headers.get("accept", ""),
            base=(caller.base if caller else ""),
            path=path,
            authenticated=bool(caller and caller.user_id),
        )
        status, extra, body = self.dialect.fault(fault, told)
        resp.status = status
        resp.data = body
        resp.stream = None
        for name, value in {**extra, **fault.headers}.items():
            resp.set_header(name, value)

    def _stamp(self, resp: Any, version: Version | None) -> None:
        caller = context.current()
        request_id = caller.request_id if caller else ids.new_request_id()
        resp.set_header("X-Openstack-Request-Id", request_id)
        if self.extra_headers is not None:
            for name, value in self.extra_headers(request_id).items():
                resp.set_header(name, value)
        if self.versions is not None:
            for name, value in self.versions.headers(version).items():
                resp.set_header(name, value)

    async def _unrouted(self, req: Any, resp: Any, **_: Any) -> None:
        async def missing(_: Request) -> None:
            raise NotFound("The resource could not be found.")

        methods = {req.method: [Route(f"{req.method} {req.path}", missing, public=True, raw=True)]}
        await self.serve(methods, req, resp, {})

    async def _uncaught(self, req: Any, resp: Any, error: Exception, params: Any) -> None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in req.scope["headers"]}
        self._fault(resp, self._as_fault(error), headers, None, req.path)
        self._stamp(resp, None)

    def _new_context(self, headers: dict[str, str], scope: Any) -> Context:
        offered = headers.get("x-openstack-request-id", "")
        return Context(
            request_id=ids.new_request_id(),
            global_id=offered if _REQUEST_ID.match(offered) else None,
            base=client_base(headers, scope),
        )


def client_base(headers: dict[str, str], scope: Any) -> str:
    """scheme://host[/prefix] by which the client reached us, trusting X-Forwarded-* of a front proxy."""
    scheme = headers.get("x-forwarded-proto", scope.get("scheme", "http")).split(",")[0].strip()
    host = headers.get("x-forwarded-host", headers.get("host", "localhost")).split(",")[0].strip()
    prefix = headers.get("x-forwarded-prefix", "").rstrip("/")
    if not _HOST.match(host):
        host = "localhost"
    if not re.fullmatch(r"(/[A-Za-z0-9._\-]+)*", prefix):
        prefix = ""
    return f"{'https' if scheme == 'https' else 'http'}://{host}{prefix}"


def _baggage(header: str) -> dict[str, str]:
    """Our own members of a W3C baggage header."""
    carried = {}
    for item in header.split(","):
        name, _, value = item.strip().partition("=")
        if name.startswith("cumulet.") and re.fullmatch(r"[A-Za-z0-9\-]{1,64}", value):
            carried[name.removeprefix("cumulet.")] = value
    return carried


def _resource(api: Api, methods: dict[str, list[Route]]) -> object:
    """A framework resource whose every responder leads into the pipeline (405 is the dialect's own)."""

    async def respond(self: object, req: Any, resp: Any, **params: str) -> None:
        await api.serve(methods, req, resp, params)

    verbs = ("get", "head", "post", "put", "patch", "delete", "options")
    return type("Resource", (), {f"on_{verb}": respond for verb in verbs})()
