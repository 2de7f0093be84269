# SPDX-License-Identifier: Apache-2.0
"""The configuration of a domain, as a whole, by group and by option."""

from __future__ import annotations

from typing import Any

from cumulet.identity.api.answers import identity_of
from cumulet.identity.logic import domain_options
from cumulet.identity.logic.users import require_domain
from cumulet.identity.schemas import DOMAIN_CONFIG
from cumulet.kernel.http import Answer, Request, Route


def _of(request: Request) -> tuple[str, str | None, str | None]:
    params = request.params
    return params["domain_id"], params.get("group"), params.get("option")


async def show_config(request: Request) -> dict[str, Any]:
    """Everybody may read what is asked of passwords; the rest has a rule of its own."""
    identity = identity_of(request)
    domain_id, group, option = _of(request)
    if group == domain_options.COMPLIANCE:
        request.enforce("identity:get_security_compliance_domain_config")
        shown = domain_options.compliance(identity.settings, domain_id, option)
        await require_domain(identity.database, domain_id)
        return {"config": shown}
    request.enforce("identity:get_domain_config")
    return {"config": await identity.domain_options.show(domain_id, group, option)}


async def replace_config(request: Request) -> Answer:
    domain_id, _, _ = _of(request)
    config, new = await identity_of(request).domain_options.replace(domain_id, request.body.get("config"))
    return Answer({"config": config}, status=201 if new else 200)


async def update_config(request: Request) -> dict[str, Any]:
    domain_id, group, option = _of(request)
    options = identity_of(request).domain_options
    return {"config": await options.update(domain_id, request.body.get("config"), group, option)}


async def drop_config(request: Request) -> None:
    await identity_of(request).domain_options.drop(*_of(request))


async def show_default(request: Request) -> dict[str, Any]:
    return {"config": domain_options.defaults(request.params.get("group"), request.params.get("option"))}


_CONFIG = "/domains/{domain_id}/config"
_DEFAULT = "/domains/config"
ROUTES = [
    Route(f"PUT {_CONFIG}", replace_config, policy="identity:create_domain_config", body=DOMAIN_CONFIG),
    *(
        row
        for path in (_CONFIG, f"{_CONFIG}/{{group}}", f"{_CONFIG}/{{group}}/{{option}}")
        for row in (
            Route(f"GET {path}", show_config, policy="identity:get_domain_config", late=True),
            Route(f"PATCH {path}", update_config, policy="identity:update_domain_config", body=DOMAIN_CONFIG),
            Route(f"DELETE {path}", drop_config, policy="identity:delete_domain_config", ok=204),
        )
    ),
    *(
        Route(f"GET {path}/default", show_default, policy="identity:get_domain_config_default")
        for path in (_DEFAULT, f"{_DEFAULT}/{{group}}", f"{_DEFAULT}/{{group}}/{{option}}")
    ),
]
