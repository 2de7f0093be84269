# SPDX-License-Identifier: Apache-2.0
"""The configuration of a domain: the published options and no others.

Invariant: a sensitive option is sealed at rest and never shown; whoever needs it
asks for the whole configuration (`whole`).
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import select

from cumulet.identity.config import IdentitySettings
from cumulet.identity.logic.users import require_domain
from cumulet.identity.models import DOMAIN_OPTIONS
from cumulet.kernel.db import Database, Row, Transaction
from cumulet.kernel.errors import Forbidden, NotFound
from cumulet.kernel.secrets import Seal

Reader = Database | Transaction
Config = dict[str, dict[str, Any]]

DEFAULTS: Final[Config] = {
    "identity": {"driver": "sql", "list_limit": None},
    "ldap": {
        "url": "ldap://localhost",
        "user": None,
        "suffix": "cn=example,cn=com",
        "query_scope": "one",
        "page_size": 0,
        "alias_dereferencing": "default",
        "debug_level": None,
        "chase_referrals": None,
        "user_tree_dn": None,
        "user_filter": None,
        "user_objectclass": "inetOrgPerson",
        "user_id_attribute": "cn",
        "user_name_attribute": "sn",
        "user_mail_attribute": "mail",
        "user_description_attribute": "description",
        "user_pass_attribute": "userPassword",
        "user_enabled_attribute": "enabled",
        "user_enabled_invert": False,
        "user_enabled_mask": 0,
        "user_enabled_default": "True",
        "user_attribute_ignore": ["default_project_id"],
        "user_default_project_id_attribute": None,
        "user_enabled_emulation": False,
        "user_enabled_emulation_dn": None,
        "user_enabled_emulation_use_group_config": False,
        "user_additional_attribute_mapping": [],
        "group_tree_dn": None,
        "group_filter": None,
        "group_objectclass": "groupOfNames",
        "group_id_attribute": "cn",
        "group_name_attribute": "ou",
        "group_members_are_ids": False,
        "group_member_attribute": "member",
        "group_desc_attribute": "description",
        "group_attribute_ignore": [],
        "group_additional_attribute_mapping": [],
        "tls_cacertfile": None,
        "tls_cacertdir": None,
        "use_tls": False,
        "tls_req_cert": "demand",
        "use_pool": True,
        "pool_size": 10,
        "pool_retry_max": 3,
        "pool_retry_delay": 0.1,
        "pool_connection_timeout": -1,
        "pool_connection_lifetime": 600,
        "use_auth_pool": True,
        "auth_pool_size": 100,
        "auth_pool_connection_lifetime": 60,
    },
}
"""Every option that a domain may have, with what holds without it."""
SENSITIVE: Final = {("ldap", "password")}
COMPLIANCE = "security_compliance"
_READABLE = ("password_regex", "password_regex_description")


def _refused(reason: str) -> Forbidden:
    return Forbidden(f"Invalid domain specific configuration: {reason}.")


def check_name(group: str | None, option: str | None = None) -> None:
    """Raise Forbidden for a group or option that no domain has."""
    if group is None:
        return
    if group not in DEFAULTS:
        raise _refused(f"Group {group} is not supported for domain specific configurations")
    if option is not None and option not in DEFAULTS[group] and (group, option) not in SENSITIVE:
        raise _refused(f"Option {option} in group {group} is not supported for domain specific configurations")


def _check(config: Any) -> Config:
    """The configuration that was sent, when it has the shape and the names of one."""
    if not config or not isinstance(config, dict):
        raise _refused("No options specified")
    for group, options in config.items():
        if not options or not isinstance(options, dict):
            raise _refused(f"The value of group {group} specified in the config should be a dictionary of options")
        for option in options:
            check_name(group, option)
    return config


def _absent(domain_id: str, group: str | None, option: str | None) -> NotFound:
    what = "any options" if group is None else f"group {group}"
    if option is not None:
        what = f"option {option} in {what}"
    return NotFound(f"Could not find {what} in domain configuration for domain {domain_id}.")


def _part(config: Config, group: str | None, option: str | None) -> Any:
    """What of a configuration is asked for; empty when there is nothing of it."""
    if group is None:
        return config
    options = config.get(group, {})
    if option is not None:
        return {option: options[option]} if option in options else {}
    return {group: options} if options else {}


def defaults(group: str | None, option: str | None) -> Any:
    check_name(group, option)
    if option is not None and (group, option) in SENSITIVE:
        raise _refused(f"Reading the default for option {option} in group {group} is not supported")
    return _part(DEFAULTS, group, option)


def compliance(settings: IdentitySettings, domain_id: str, option: str | None) -> dict[str, Any]:
    """What everybody may know about passwords, of the default domain only."""
    if domain_id != "default":
        raise _refused(
            "Reading security compliance information for any domain other than the default domain is not allowed"
            " or supported."
        )
    if option is not None and option not in _READABLE:
        raise _refused(
            "Reading security compliance values other than password_regex and password_regex_description is not"
            " allowed."
        )
    shown = {name: getattr(settings, name) or None for name in _READABLE}
    part: dict[str, Any] = _part({COMPLIANCE: shown}, COMPLIANCE, option)
    return part


class DomainOptions:
    """The configurations of all domains."""

    def __init__(self, database: Database, seal: Seal) -> None:
        self._database, self._seal = database, seal

    async def show(self, domain_id: str, group: str | None = None, option: str | None = None) -> Any:
        """What is set and no secret; raises NotFound when that is nothing."""
        await require_domain(self._database, domain_id)
        check_name(group, option)
        found = _part(self._open(await self._rows(self._database, domain_id), secrets=False), group, option)
        if not found:
            raise _absent(domain_id, group, option)
        return found

    async def whole(self, domain_id: str) -> Config:
        """All that is set, with its secrets: not for answers."""
        return self._open(await self._rows(self._database, domain_id), secrets=True)

    async def replace(self, domain_id: str, sent: Any) -> tuple[Config, bool]:
        """Set exactly these options; returns what may be shown, and whether there were none before."""

        async def body(tx: Transaction) -> bool:
            await require_domain(tx, domain_id)
            config = _check(sent)
            before = await tx.run(DOMAIN_OPTIONS.delete().where(DOMAIN_OPTIONS.c.domain_id == domain_id))
            await self._put(tx, domain_id, config)
            return not before

        new = await self._database.run(body)
        return self._open(await self._rows(self._database, domain_id), secrets=False), new

    async def update(self, domain_id: str, sent: Any, group: str | None, option: str | None) -> Any:
        """Set some options: those of one ``group``, or one ``option``, must be set already."""

        async def body(tx: Transaction) -> None:
            await require_domain(tx, domain_id)
            config = _check({group: sent} if group is not None and option is not None else sent)
            check_name(group, option)
            if group is not None:
                _check_only(config, group, option)
                if not _part(self._open(await self._rows(tx, domain_id), secrets=True), group, option):
                    raise _absent(domain_id, group, option)
            await self._put(tx, domain_id, config)

        await self._database.run(body)
        return await self.show(domain_id)

    async def drop(self, domain_id: str, group: str | None, option: str | None) -> None:
        """Unset all, a group or an option; raises NotFound for a group or option that is not set."""

        async def body(tx: Transaction) -> None:
            await require_domain(tx, domain_id)
            check_name(group, option)
            known = self._open(await self._rows(tx, domain_id), secrets=True)
            if group is not None and not known.get(group):
                raise _absent(domain_id, group, None)
            if option is not None and not _part(known, group, option):
                raise _absent(domain_id, group, option)
            table = DOMAIN_OPTIONS.c
            condition = table.domain_id == domain_id
            if group is not None:
                condition &= table.section == group
            if option is not None:
                condition &= table.option == option
            await tx.run(DOMAIN_OPTIONS.delete().where(condition))

        await self._database.run(body)

    @staticmethod
    async def _rows(reader: Reader, domain_id: str) -> list[Row]:
        table = DOMAIN_OPTIONS.c
        mine = select(DOMAIN_OPTIONS).where(table.domain_id == domain_id)
        return await reader.all(mine.order_by(table.section, table.option))

    def _open(self, rows: list[Row], *, secrets: bool) -> Config:
        config: Config = {}
        for row in rows:
            if (row["section"], row["option"]) not in SENSITIVE:
                config.setdefault(row["section"], {})[row["option"]] = row["value"]
            elif secrets:
                config.setdefault(row["section"], {})[row["option"]] = self._seal.open(row["value"])
        return config

    async def _put(self, tx: Transaction, domain_id: str, config: Config) -> None:
        table = DOMAIN_OPTIONS.c
        for group, options in config.items():
            for option, value in options.items():
                kept = self._seal.close(str(value)) if (group, option) in SENSITIVE else value
                at = (table.domain_id == domain_id) & (table.section == group) & (table.option == option)
                if not await tx.run(DOMAIN_OPTIONS.update().where(at).values(value=kept)):
                    row = {"domain_id": domain_id, "section": group, "option": option, "value": kept}
                    await tx.insert(DOMAIN_OPTIONS, row)


def _check_only(config: Config, group: str, option: str | None) -> None:
    """A change of one group or option holds that and nothing else."""
    if len(config) != 1 or (option is not None and len(next(iter(config.values()))) != 1):
        if option is not None:
            raise _refused(
                f"Trying to update option {option} in group {group}, so that, and only that, option must be specified"
                " in the config"
            )
        raise _refused(f"Trying to update group {group}, so that, and only that, group must be specified in the config")
    if group not in config:
        raise _refused(
            f"request to update group {group}, but config provided contains group {next(iter(config))} instead"
        )
    if option is not None and option not in config[group]:
        raise _refused(
            f"Trying to update option {option} in group {group}, but config provided contains option"
            f" {next(iter(config[group]))} instead"
        )
