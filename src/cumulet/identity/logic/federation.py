# SPDX-License-Identifier: Apache-2.0
"""Federation: foreign identity providers with their protocols and mappings, and clouds that trust ours.

Invariant: a provider has a domain, its own one when it came without; nobody who
is told about by a disabled or wrongly named provider becomes anybody here.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from cumulet.identity.errors import missing, taken
from cumulet.identity.logic import mapping
from cumulet.identity.logic.feed import Feed
from cumulet.identity.logic.listing import Page, fetch, one
from cumulet.identity.logic.users import require_domain
from cumulet.identity.models import (
    GROUPS,
    IDENTITY_PROVIDERS,
    MAPPINGS,
    PROJECTS,
    PROTOCOLS,
    REMOTE_IDS,
    SERVICE_PROVIDERS,
)
from cumulet.kernel import ids
from cumulet.kernel.db import Database, Duplicate, Row, Transaction
from cumulet.kernel.errors import Forbidden, Internal, Invalid, NotFound

Reader = Database | Transaction
RELAY_STATE_PREFIX = "ss:mem:"

# ---- identity providers


async def list_providers(database: Database, page: Page) -> tuple[list[Row], bool]:
    rows, more = await fetch(database, select(IDENTITY_PROVIDERS), IDENTITY_PROVIDERS, page)
    return await _with_remote_ids(database, rows), more


async def show_provider(reader: Reader, idp_id: str) -> Row:
    row = await one(reader, IDENTITY_PROVIDERS, idp_id, "Identity Provider")
    return (await _with_remote_ids(reader, [row]))[0]


async def _with_remote_ids(reader: Reader, rows: list[Row]) -> list[Row]:
    by_id: dict[str, list[str]] = {row["id"]: [] for row in rows}
    for remote in await reader.all(select(REMOTE_IDS).order_by(REMOTE_IDS.c.remote_id)):
        if remote["idp_id"] in by_id:
            by_id[remote["idp_id"]].append(remote["remote_id"])
    return [{**row, "remote_ids": by_id[row["id"]]} for row in rows]


async def create_provider(database: Database, feed: Feed, idp_id: str, sent: dict[str, Any]) -> Row:
    """Register a provider; without a domain it gets one of its own."""
    own_domain = ids.new_hex()

    async def body(tx: Transaction) -> Row:
        domain_id = sent.get("domain_id") or own_domain
        if await tx.first(select(IDENTITY_PROVIDERS.c.id).where(IDENTITY_PROVIDERS.c.id == idp_id)) is not None:
            raise taken("identity_provider", f"Duplicate entry: {idp_id}")
        if domain_id == own_domain:
            await tx.insert(PROJECTS, _domain(own_domain, idp_id))
        await require_domain(tx, domain_id)
        row = {
            "id": idp_id,
            "domain_id": domain_id,
            "enabled": bool(sent.get("enabled")),
            "description": sent.get("description"),
            "authorization_ttl": sent.get("authorization_ttl"),
        }
        await tx.insert(IDENTITY_PROVIDERS, row)
        await _name(tx, idp_id, sent.get("remote_ids") or [])
        await feed.changed(tx)
        return await show_provider(tx, idp_id)

    return await database.run(body)


def _domain(domain_id: str, idp_id: str) -> Row:
    description = f"Auto generated federated domain for Identity Provider: {idp_id}"
    empty = {"domain_id": "", "parent_id": "", "options": {}, "extra": {}, "voided": 0}
    return {**empty, "id": domain_id, "name": domain_id, "description": description, "enabled": True, "is_domain": True}


async def _name(tx: Transaction, idp_id: str, remote_ids: list[str]) -> None:
    await tx.run(REMOTE_IDS.delete().where(REMOTE_IDS.c.idp_id == idp_id))
    for remote_id in remote_ids:
        try:
            await tx.insert(REMOTE_IDS, {"idp_id": idp_id, "remote_id": remote_id})
        except Duplicate:
            raise taken("identity_provider", f"Duplicate remote ID: {remote_id}") from None


async def update_provider(database: Database, feed: Feed, idp_id: str, sent: dict[str, Any]) -> Row:
    values = dict(sent)
    remote_ids = values.pop("remote_ids", ...)
    if "enabled" in values:
        values["enabled"] = bool(values["enabled"])

    async def body(tx: Transaction) -> Row:
        await show_provider(tx, idp_id)
        if values:
            await tx.run(IDENTITY_PROVIDERS.update().where(IDENTITY_PROVIDERS.c.id == idp_id).values(values))
        if remote_ids is not ...:
            await _name(tx, idp_id, remote_ids or [])
        await feed.changed(tx)
        return await show_provider(tx, idp_id)

    return await database.run(body)


async def drop_provider(database: Database, feed: Feed, idp_id: str) -> None:
    """Delete a provider with its protocols; its domain stays."""

    async def body(tx: Transaction) -> None:
        await show_provider(tx, idp_id)
        await tx.run(IDENTITY_PROVIDERS.delete().where(IDENTITY_PROVIDERS.c.id == idp_id))
        await feed.changed(tx)

    await database.run(body)


# ---- their protocols


def _protocol(idp_id: str, protocol_id: str) -> Any:
    return (PROTOCOLS.c.idp_id == idp_id) & (PROTOCOLS.c.id == protocol_id)


async def list_protocols(reader: Reader, idp_id: str) -> list[Row]:
    return await reader.all(select(PROTOCOLS).where(PROTOCOLS.c.idp_id == idp_id).order_by(PROTOCOLS.c.id))


async def show_protocol(reader: Reader, idp_id: str, protocol_id: str) -> Row:
    row = await reader.first(select(PROTOCOLS).where(_protocol(idp_id, protocol_id)))
    if row is None:
        raise NotFound(f"Could not find federated protocol {protocol_id} for Identity Provider: {idp_id}.")
    return row


async def create_protocol(database: Database, idp_id: str, protocol_id: str, sent: dict[str, Any]) -> Row:
    row = {"idp_id": idp_id, "id": protocol_id, "remote_id_attribute": None, **sent}

    async def body(tx: Transaction) -> None:
        await _require_mapping(tx, row["mapping_id"])
        await show_provider(tx, idp_id)
        await tx.insert(PROTOCOLS, row)

    try:
        await database.run(body)
    except Duplicate:
        raise taken("federation_protocol", f"Duplicate entry found with ID {protocol_id}") from None
    return row


async def update_protocol(database: Database, feed: Feed, idp_id: str, protocol_id: str, sent: dict[str, Any]) -> Row:
    async def body(tx: Transaction) -> Row:
        await _require_mapping(tx, sent["mapping_id"])
        await show_protocol(tx, idp_id, protocol_id)
        await tx.run(PROTOCOLS.update().where(_protocol(idp_id, protocol_id)).values(sent))
        await feed.changed(tx)
        return await show_protocol(tx, idp_id, protocol_id)

    return await database.run(body)


async def drop_protocol(database: Database, feed: Feed, idp_id: str, protocol_id: str) -> None:
    async def body(tx: Transaction) -> None:
        await show_protocol(tx, idp_id, protocol_id)
        await tx.run(PROTOCOLS.delete().where(_protocol(idp_id, protocol_id)))
        await feed.changed(tx)

    await database.run(body)


async def _require_mapping(reader: Reader, mapping_id: str) -> None:
    if await reader.first(select(MAPPINGS.c.id).where(MAPPINGS.c.id == mapping_id)) is None:
        raise Invalid(f"Invalid mapping id: {mapping_id}")


# ---- mappings


async def list_mappings(database: Database, page: Page) -> tuple[list[Row], bool]:
    return await fetch(database, select(MAPPINGS), MAPPINGS, page)


async def show_mapping(reader: Reader, mapping_id: str) -> Row:
    return await one(reader, MAPPINGS, mapping_id, "mapping")


def _mapping(mapping_id: str, sent: dict[str, Any]) -> Row:
    """The row of a mapping that was sent; raises Invalid for rules that mean nothing."""
    version = sent.get("schema_version") or mapping.VERSIONS[0]
    mapping.check_rules({**sent, "schema_version": version}, str(version))
    return {"id": mapping_id, "rules": sent["rules"], "schema_version": version}


async def create_mapping(database: Database, mapping_id: str, sent: dict[str, Any]) -> Row:
    row = _mapping(mapping_id, sent)

    async def body(tx: Transaction) -> None:
        await tx.insert(MAPPINGS, row)

    try:
        await database.run(body)
    except Duplicate:
        raise taken("mapping", "Duplicate entry") from None
    return row


async def update_mapping(database: Database, mapping_id: str, sent: dict[str, Any]) -> Row:
    async def body(tx: Transaction) -> Row:
        row = _mapping(mapping_id, sent)
        await show_mapping(tx, mapping_id)
        await tx.run(MAPPINGS.update().where(MAPPINGS.c.id == mapping_id).values(row))
        return row

    return await database.run(body)


async def drop_mapping(database: Database, mapping_id: str) -> None:
    async def body(tx: Transaction) -> None:
        await show_mapping(tx, mapping_id)
        await tx.run(MAPPINGS.delete().where(MAPPINGS.c.id == mapping_id))

    await database.run(body)


# ---- what an assertion makes of somebody


async def recognize(database: Database, idp_id: str, protocol_id: str, assertion: mapping.Assertion) -> mapping.Mapped:
    """Who somebody is here of whom a provider says ``assertion``, all his groups by id.

    Raises Forbidden for a disabled provider or one that calls itself otherwise
    than it is registered, Invalid when its mapping makes nobody of the assertion.
    """
    provider = await show_provider(database, idp_id)
    if not provider["enabled"]:
        raise Forbidden(f"Identity Provider {idp_id} is disabled")
    protocol = await show_protocol(database, idp_id, protocol_id)
    attribute = protocol["remote_id_attribute"]
    if attribute and provider["remote_ids"]:
        if attribute not in assertion:
            raise Invalid("Could not find Identity Provider identifier in environment")
        if assertion[attribute] not in provider["remote_ids"]:
            raise Forbidden("Incoming identity provider identifier not included among the accepted identifiers.")
    rules = await show_mapping(database, protocol["mapping_id"])
    mapped = mapping.evaluate(rules["rules"], rules["schema_version"], assertion)
    known = await database.all(select(GROUPS.c.id).where(GROUPS.c.id.in_(mapped.group_ids)))
    if len(known) != len(mapped.group_ids):
        raise Internal  # the mapping names a group that is gone: the operator's mistake, not the person's
    for group in mapped.group_names:
        row = await _group(database, group)
        if row is not None and row["id"] not in mapped.group_ids:
            mapped.group_ids.append(row["id"])
    return mapped


async def _group(reader: Reader, named: dict[str, Any]) -> Row | None:
    """The group of that name in the domain given by id or name; None when there is none."""
    domain_id = named["domain"].get("id")
    if domain_id is None:
        wanted = (PROJECTS.c.name == named["domain"].get("name")) & PROJECTS.c.is_domain.is_(True)
        domain = await reader.first(select(PROJECTS.c.id).where(wanted))
        if domain is None:
            raise missing("domain", named["domain"].get("name"))
        domain_id = domain["id"]
    return await reader.first(select(GROUPS).where(GROUPS.c.name == named["name"], GROUPS.c.domain_id == domain_id))


# ---- service providers


async def list_services(database: Database, page: Page) -> tuple[list[Row], bool]:
    return await fetch(database, select(SERVICE_PROVIDERS), SERVICE_PROVIDERS, page)


async def show_service(reader: Reader, sp_id: str) -> Row:
    return await one(reader, SERVICE_PROVIDERS, sp_id, "Service Provider")


def _service(values: dict[str, Any]) -> Row:
    enabled, prefix = bool(values.get("enabled")), values.get("relay_state_prefix")
    return {**values, "enabled": enabled, "relay_state_prefix": RELAY_STATE_PREFIX if prefix is None else prefix}


async def create_service(database: Database, feed: Feed, sp_id: str, sent: dict[str, Any]) -> Row:
    row = _service({"id": sp_id, "description": None, **sent})

    async def body(tx: Transaction) -> None:
        await tx.insert(SERVICE_PROVIDERS, row)
        await feed.changed(tx)

    try:
        await database.run(body)
    except Duplicate:
        raise taken("service_provider", f"Duplicate entry found with ID {sp_id}") from None
    return row


async def update_service(database: Database, feed: Feed, sp_id: str, sent: dict[str, Any]) -> Row:
    async def body(tx: Transaction) -> Row:
        new = _service({**await show_service(tx, sp_id), **sent})
        await tx.run(SERVICE_PROVIDERS.update().where(SERVICE_PROVIDERS.c.id == sp_id).values(new))
        await feed.changed(tx)
        return new

    return await database.run(body)


async def drop_service(database: Database, feed: Feed, sp_id: str) -> None:
    async def body(tx: Transaction) -> None:
        await show_service(tx, sp_id)
        await tx.run(SERVICE_PROVIDERS.delete().where(SERVICE_PROVIDERS.c.id == sp_id))
        await feed.changed(tx)

    await database.run(body)
