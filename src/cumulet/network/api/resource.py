# SPDX-License-Identifier: Apache-2.0
"""From one attribute table and one `Kind` to the five published operations of a resource.

Invariant: nothing is shown or changed that no policy rule allowed; what a
caller may not see is not there (404), what it sees but may not do is 403.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl, urlencode

from sqlalchemy import Boolean, Integer, func, select

from cumulet.kernel import clock
from cumulet.kernel.context import Context
from cumulet.kernel.http import Request, Route
from cumulet.kernel.policy import Policy
from cumulet.network import models as m
from cumulet.network.api.body import AttributeBody, Sent, own_project
from cumulet.network.errors import bad, hidden, http_bad, refuse
from cumulet.network.logic import Document, Values, kinds
from cumulet.network.logic.kinds import Authorize, Kind, Page
from cumulet.network.schemas import Attribute
from cumulet.network.schemas.values import boolean

_RESERVED = ("fields", "limit", "marker", "page_reverse", "sort_key", "sort_dir")
_TAG_FILTERS = ("tags", "tags-any", "not-tags", "not-tags-any")
_TRUE = ("true", "1")


class Resource:
    """One published resource: its table of attributes, its kind, its rows of routes."""

    def __init__(
        self,
        kind: Kind,
        attributes: tuple[Attribute, ...],
        *,
        bulk: bool = False,
        chosen_id: bool = False,
        before_list: Callable[[Request], Awaitable[None]] | None = None,
    ) -> None:
        self.kind, self._before_list = kind, before_list
        self.attributes = {one.name: one for one in attributes}
        self.path = "/v2.0/" + kind.plural.replace("_", "-")
        plural = kind.plural if bulk else None
        self._post = AttributeBody(kind.name, attributes, verb="post", plural=plural, chosen_id=chosen_id)
        self._put = AttributeBody(kind.name, attributes, verb="put")
        self.tagged = "tags" in self.attributes

    def routes(self) -> list[Route]:
        """The rows of the operations that the kind has."""
        name, one = self.kind.name, f"{self.path}/{{id}}"
        rows = [
            Route(f"GET {self.path}", self.index, policy=f"get_{name}", late=True),
            Route(f"GET {one}", self.show, policy=f"get_{name}", late=True),
        ]
        if self.kind.create is not None:
            create = f"create_{name}"
            rows.append(Route(f"POST {self.path}", self.create, policy=create, late=True, body=self._post, ok=201))
        if self.kind.update is not None:
            rows.append(Route(f"PUT {one}", self.update, policy=f"update_{name}", late=True, body=self._put))
        if self.kind.delete is not None:
            rows.append(Route(f"DELETE {one}", self.delete, policy=f"delete_{name}", late=True, ok=204))
        return rows

    # ---- operations

    async def index(self, request: Request) -> dict[str, Any]:
        if self._before_list is not None:
            await self._before_list(request)
        pairs = parse_qsl(request.query_text, keep_blank_values=True)
        page = self._page(pairs)
        documents = await kinds.listing(request.service, request.context, self.kind, page)
        shown = [one for one in documents if _may(request, f"get_{self.kind.name}", one)]
        wanted = [value for name, value in pairs if name == "fields" and value]
        answer: dict[str, Any] = {self.kind.plural: [self.render(request, one, wanted) for one in shown]}
        if page.limit:
            links = _links(request, pairs, documents, page)
            if links:
                answer[f"{self.kind.plural}_links"] = links
        return answer

    async def show(self, request: Request) -> dict[str, Any]:
        document = await kinds.read(request.service, request.context, self.kind, request.params["id"])
        if not _may(request, f"get_{self.kind.name}", document):
            raise hidden()
        pairs = parse_qsl(request.query_text, keep_blank_values=True)
        wanted = [value for name, value in pairs if name == "fields" and value]
        return {self.kind.name: self.render(request, document, wanted)}

    async def create(self, request: Request) -> dict[str, Any]:
        items: list[Sent] = request.body["items"]
        caller = request.context
        for one in items:
            self._check_id(request, one)
            if "project_id" in self.attributes:
                own_project(
                    one.values, project_id=caller.project_id, elevated=caller.is_admin or "service" in caller.roles
                )

        def rule(one: Sent) -> Authorize:
            return lambda document, values: self._enforce(request, "create", document, values, one.explicit)

        wanted = [(one.values, rule(one)) for one in items]
        made = await kinds.create(request.service, caller, self.kind, wanted)
        documents = [self.render(request, one) for one in made]
        return {self.kind.plural: documents} if request.body["bulk"] else {self.kind.name: documents[0]}

    async def update(self, request: Request) -> dict[str, Any]:
        (sent,) = request.body["items"]

        def authorize(document: Document, values: Values) -> None:
            self._enforce(request, "update", {**document, **values}, values, sent.explicit, before=document)

        document = await kinds.update(
            request.service, request.context, self.kind, request.params["id"], sent.values, authorize, if_match(request)
        )
        return {self.kind.name: self.render(request, document)}

    async def delete(self, request: Request) -> None:
        def authorize(document: Document, values: Values) -> None:
            self._enforce(request, "delete", document, {}, frozenset(), before=document)

        await kinds.delete(
            request.service, request.context, self.kind, request.params["id"], authorize, if_match(request)
        )

    # ---- what they share

    def render(self, request: Request, document: Document, wanted: list[str] | None = None) -> dict[str, Any]:
        """The document as this caller may see it, only the ``wanted`` members if any are named."""
        shown = {}
        rules = request.policy.names()
        for name, attribute in self.attributes.items():
            if not attribute.visible or name not in document or (wanted and name not in wanted):
                continue
            rule = f"get_{self.kind.name}:{name}"
            if rule in rules and not _may(request, rule, document):
                continue
            shown[name] = document[name]
        return shown

    def _check_id(self, request: Request, sent: Sent) -> None:
        """An id that the caller chose: only services may, so that a repeated step finds its own work."""
        if "id" in sent.values and not request.context.is_service:
            raise http_bad("Attribute 'id' not allowed in POST")

    def _enforce(
        self,
        request: Request,
        action: str,
        target: Document,
        values: Values,
        explicit: frozenset[str],
        before: Document | None = None,
    ) -> None:
        enforce(request.policy, request.context, self.kind.name, action, target, values, explicit, before)

    def _page(self, pairs: list[tuple[str, str]]) -> Page:
        page = Page()
        filters: dict[str, list[str]] = {}
        sort_keys, sort_dirs = [], []
        for name, value in pairs:
            if name == "limit":
                page.limit = _limit(value)
            elif name == "marker":
                page.marker = value
            elif name == "page_reverse":
                page.reverse = value.lower() in _TRUE
            elif name == "sort_key" and value:
                sort_keys.append(value)
            elif name == "sort_dir" and value:
                sort_dirs.append(value)
            elif name not in _RESERVED:
                filters.setdefault(name, []).append(value)
        page.sorts = self._sorts(sort_keys, sort_dirs)
        page.where = self._where(filters)
        if not page.limit:
            page.limit = page.marker = None
        return page

    def _sorts(self, names: list[str], directions: list[str]) -> list[tuple[str, bool]]:
        if len(names) != len(directions):
            raise http_bad("The number of sort_keys and sort_dirs must be same")
        absent = [name for name in names if name not in self.attributes or not self.attributes[name].sort]
        if absent:
            raise http_bad(f"{absent} is invalid attribute for sort_keys")
        wrong = [one for one in directions if one not in ("asc", "desc")]
        if wrong:
            raise http_bad(f"{wrong} is invalid value for sort_dirs, valid value is 'asc' and 'desc'")
        columns = [self._column(name) for name in names]
        return [(column, way == "asc") for column, way in zip(columns, directions, strict=True)]

    def _column(self, name: str) -> str:
        return self.attributes[name].inner or name

    def _where(self, filters: dict[str, list[str]]) -> list[Any]:
        clauses = []
        unknown = []
        for name, values in filters.items():
            if name in self.kind.filters:
                clauses.append(self._special(name, values))
            elif name in _TAG_FILTERS and self.tagged:
                clauses.append(_tagged(self.kind, name, values))
            elif name == "changed_since" and "updated_at" in self.kind.table.c:
                clauses.append(self.kind.table.c.updated_at >= _moment(values))
            elif name in self.attributes and self.attributes[name].filter:
                clauses.append(self._matches(name, values))
            else:
                unknown.append(name)
        if unknown:
            raise http_bad(f"{unknown} is invalid attribute for filtering")
        return clauses

    def _special(self, name: str, values: list[str]) -> Any:
        try:
            return self.kind.filters[name](values)
        except ValueError as error:
            raise http_bad(f"Invalid input for {name}. Reason: {error}.") from None

    def _matches(self, name: str, values: list[str]) -> Any:
        column = self.kind.table.c[self._column(name)]
        try:
            if isinstance(column.type, Boolean):
                return column.in_([boolean(value) for value in values])
            if isinstance(column.type, Integer):
                return column.in_([int(value) for value in values])
        except ValueError:
            raise http_bad(f"Invalid input for {name}. Reason: '{values[0]}' is not a valid value.") from None
        clause = column.in_(values)
        return clause | column.is_(None) if "" in values and column.nullable else clause


def _may(request: Request, rule: str, document: Document) -> bool:
    return request.policy.allows(rule, request.context, {**document, **document["*"]})


def enforce(
    policy: Policy,
    caller: Context,
    resource: str,
    action: str,
    target: Document,
    values: Values,
    explicit: frozenset[str],
    before: Document | None = None,
) -> None:
    """Raise unless the caller may do this with each attribute that it sent; 404 for what it may not even see."""
    whole = {**target, **target["*"]}
    rules = policy.names()
    needed = [f"{action}_{resource}"]
    for name in sorted(explicit):
        attribute = f"{action}_{resource}:{name}"
        parts = values[name] if isinstance(values[name], list) else [values[name]]
        members = sorted({member for part in parts if isinstance(part, dict) for member in part})
        needed += [rule for rule in (attribute, *(f"{attribute}:{one}" for one in members)) if rule in rules]
    for rule in needed:
        if policy.allows(rule, caller, whole):
            continue
        if before is not None and not policy.allows(f"get_{resource}", caller, {**before, **before["*"]}):
            raise hidden()
        raise refuse(rule)


def if_match(request: Request) -> int | None:
    """The revision that the client constrains its change to, from ``If-Match: revision_number=N``."""
    found = [
        tag.strip().strip('"').removeprefix("revision_number=")
        for tag in request.headers.get("if-match", "").split(",")
        if tag.strip().strip('"').startswith("revision_number=")
    ]
    if len(found) > 1:
        raise bad("if-match", "Multiple revision_number etags are not supported.".rstrip("."))
    if found and not found[0].isdigit():
        raise bad("if-match", "Revision number etag must be in the format of revision_number=<int>")
    return int(found[0]) if found else None


def _limit(value: str) -> int:
    if not value.isdigit() or len(value) > 9:
        raise bad("limit", f"Limit must be an integer 0 or greater and not '{value}'")
    return int(value)


def _moment(values: list[str]) -> float:
    try:
        return clock.parse_iso(values[0])
    except ValueError:
        raise bad("changed_since", f"Date '{values[0]}' must be in ISO 8601 format") from None


def _tagged(kind: Kind, name: str, values: list[str]) -> Any:
    """``tags``: has all; ``tags-any``: has one; ``not-…``: has not."""
    wanted = sorted({tag for value in values for tag in value.split(",") if tag})
    t = m.TAGS.c
    having = select(t.resource_id).where(t.tag.in_(wanted)).group_by(t.resource_id)
    if not name.endswith("-any"):
        having = having.having(func.count() == len(wanted))
    return kind.table.c.id.not_in(having) if name.startswith("not-") else kind.table.c.id.in_(having)


def _links(
    request: Request, pairs: list[tuple[str, str]], documents: list[Document], page: Page
) -> list[dict[str, str]]:
    """The published links to the pages around this one."""
    rest = [(name, value) for name, value in pairs if name not in ("marker", "page_reverse")]
    short = len(documents) < (page.limit or 0)
    links = []
    if not (short and not page.reverse):
        more = [("marker", documents[-1]["id"])] if documents else []
        links.append({"rel": "next", "href": f"{request.url}?{urlencode([*rest, *more])}"})
    if not (short and page.reverse):
        more = [("marker", documents[0]["id"])] if documents else []
        href = f"{request.url}?{urlencode([*rest, *more, ('page_reverse', 'True')])}"
        links.append({"rel": "previous", "href": href})
    return links
