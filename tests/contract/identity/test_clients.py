# SPDX-License-Identifier: Apache-2.0
"""Unmodified clients over a real socket: keystoneauth, openstacksdk and the `openstack` command."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openstack
import pytest
import uvicorn
from keystoneauth1 import exceptions, session
from keystoneauth1.identity import v3

from tests.cloud import PASSWORD, TestCloud


@asynccontextmanager
async def served(cloud: TestCloud) -> AsyncIterator[str]:
    """The front door of the cloud on a loopback port; yields its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(cloud.cloud.front, lifespan="off", log_config=None))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()


async def _in_thread(work: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.to_thread(work, *arguments)


def _auth(url: str, **scope: Any) -> v3.Password:
    return v3.Password(
        auth_url=f"{url}/identity", username="admin", password=PASSWORD, user_domain_id="default", **scope
    )


def _keystoneauth(url: str) -> None:
    on_project: Any = session.Session(_auth(url, project_name="admin", project_domain_id="default"))
    assert on_project.get_endpoint(service_type="identity") == f"{url}/identity/v3"
    assert on_project.get_endpoint(service_type="compute") == f"{url}/compute/v2.1"
    assert on_project.get_endpoint(service_type="block-storage", interface="internal") == f"{url}/volume/v3"
    assert on_project.get_endpoint(service_type="volumev3") == f"{url}/volume/v3"
    assert on_project.auth.get_access(on_project).role_names == ["admin", "manager", "member", "reader"]
    assert len(on_project.get("/users", endpoint_filter={"service_type": "identity"}).json()["users"]) >= 3
    unscoped: Any = session.Session(_auth(url, unscoped=True))
    assert unscoped.auth.get_project_id(unscoped) is None
    system: Any = session.Session(_auth(url, system_scope="all"))
    assert system.auth.get_access(system).system_scoped
    token = on_project.get_token()
    by_token = session.Session(v3.Token(f"{url}/identity/v3", token, project_name="admin", project_domain_id="default"))
    assert by_token.get_token() != token
    wrong = session.Session(
        v3.Password(auth_url=f"{url}/identity", username="admin", password="x", user_domain_id="default")
    )
    with pytest.raises(exceptions.Unauthorized):
        wrong.get_token()


def _sdk(url: str) -> None:
    access = {"auth_url": f"{url}/identity", "username": "admin", "password": PASSWORD, "project_name": "admin"}
    connection = openstack.connect(
        auth=access | {"user_domain_id": "default", "project_domain_id": "default"}, region_name="RegionOne"
    )
    identity: Any = connection.identity  # its type is that of two versions at once
    project = identity.create_project(name="p", description="d", tags=["t"])
    user = identity.create_user(name="ann", password="pw", default_project_id=project.id, email="a@example.org")
    role = identity.find_role("member")
    identity.assign_project_role_to_user(project, user, role)
    assert identity.validate_user_has_project_role(project, user, role)
    assert [one.id for one in identity.user_projects(user)] == [project.id]
    (assignment,) = identity.role_assignments(user_id=user.id, include_names=True)
    assert assignment.scope["project"]["name"] == "p"
    group = identity.create_group(name="g")
    identity.add_user_to_group(user, group)
    assert [one.name for one in identity.group_users(group)] == ["ann"]
    assert identity.find_user("ann").email == "a@example.org"
    assert identity.update_user(user, is_enabled=False).is_enabled is False
    assert {one.name for one in identity.users(limit=2)} >= {"admin", "demo", "alt_demo", "ann"}  # follows the pages
    domain = identity.create_domain(name="d1")
    assert identity.update_domain(domain, is_enabled=False).is_enabled is False
    identity.delete_domain(domain)
    mine = connection.current_user_id
    made = identity.create_application_credential(mine, "c", roles=[{"name": "reader"}])
    own = openstack.connect(
        auth_type="v3applicationcredential",
        auth={"auth_url": f"{url}/identity", "application_credential_id": made.id,
              "application_credential_secret": made.secret},
    )  # fmt: skip
    own_identity: Any = own.identity
    assert own.current_project_id == connection.current_project_id
    with pytest.raises(openstack.exceptions.ForbiddenException):
        own_identity.create_user(name="eve")
    identity.delete_application_credential(mine, made)
    service = identity.create_service(name="n", type="t")
    endpoint = identity.create_endpoint(service_id=service.id, interface="public", url="http://there", region_id=None)
    assert [one.id for one in identity.endpoints(service_id=service.id)] == [endpoint.id]
    identity.delete_service(service)
    for thing, delete in (
        (group, identity.delete_group),
        (user, identity.delete_user),
        (project, identity.delete_project),
    ):
        delete(thing, ignore_missing=False)
    assert identity.find_project("p") is None
    connection.close()
    own.close()


async def test_keystoneauth(cloud: TestCloud) -> None:
    async with served(cloud) as url:
        await _in_thread(_keystoneauth, url)


# what a library says to its own developers
@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
async def test_openstacksdk(cloud: TestCloud) -> None:
    async with served(cloud) as url:
        await _in_thread(_sdk, url)


COMMANDS = [
    "token issue",
    "catalog list",
    "catalog show compute",
    "user create ann --password pw --email a@example.org --or-show",
    "user list --long",
    "user show ann",
    "project create p --description d --tag t --property k=v",
    "project show p --parents",
    "role add --project p --user ann member",
    "role assignment list --user ann --names",
    "role assignment list --user ann --effective",
    "group create g",
    "group add user g ann",
    "group contains user g ann",
    "role create r",
    "implied role create r --implied-role reader",
    "implied role list",
    "application credential create c --role reader",
    "application credential list",
    "application credential create d --access-rules rules.json",
    "access rule list",
    "trust create --project admin --role member admin demo",
    "trust list",
    "credential create --type cert admin the-blob",
    "credential list --type cert",
    "ec2 credentials create",
    "ec2 credentials list",
    "consumer create --description d",
    "consumer list",
    "service create --name n t",
    "endpoint create n public http://there.example.org --region RegionOne",
    "endpoint list --service n",
    "region list",
    "domain create d1",
    "domain set d1 --disable",
    "domain delete d1",
    "user set ann --disable",
    "user delete ann",
    "project delete p",
]


async def _commands(url: str, folder: Path, commands: list[str]) -> list[Any]:
    """What the commands answer as JSON, one after another in one shell; each must end without a complaint."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OS_")} | {
        "OS_AUTH_URL": f"{url}/identity", "OS_USERNAME": "admin", "OS_PASSWORD": PASSWORD,
        "OS_PROJECT_NAME": "admin", "OS_USER_DOMAIN_ID": "default", "OS_PROJECT_DOMAIN_ID": "default",
        "OS_IDENTITY_API_VERSION": "3", "HOME": str(folder),
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).parent / "openstack",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=environment, cwd=folder,
    )  # fmt: skip
    script = "".join(f"{command}{_json(command)}\n" for command in commands) + "quit\n"
    out, errors = await asyncio.wait_for(process.communicate(script.encode()), 120)
    complaints = [line for line in errors.decode().splitlines() if line.strip()]
    assert not complaints, complaints
    return [json.loads(part) for part in _documents(out.decode())]


async def test_the_openstack_command(cloud: TestCloud, tmp_path: Path) -> None:
    """Each command of an operator's first minutes ends well, one after another."""
    (tmp_path / "rules.json").write_text('[{"path": "/v2", "method": "GET", "service": "image"}]')
    async with served(cloud) as url:
        answers = await _commands(url, tmp_path, COMMANDS)
    assert [one["name"] for one in answers if isinstance(one, dict) and one.get("name") == "ann"] == ["ann"] * 2
    assert any(isinstance(one, list) and one and one[0].get("Role") == "member" for one in answers)


RULES = '[{"local": [{"user": {"name": "{0}"}}], "remote": [{"type": "UserName"}]}]'
OPERATORS = [
    "region create inner --parent-region RegionOne --description d",
    "region set inner --description e",
    "region show inner",
    "region list --parent-region RegionOne",
    "registered limit create --service compute --default-limit 10 --region RegionOne cores",
    "registered limit list",
    "limit create --project demo --service compute --resource-limit 5 --region RegionOne cores",
    "limit list --resource-name cores",
    "endpoint group create public filters.json --description d",
    "endpoint group show public",
    "endpoint group list",
    "endpoint group add project public demo",
    "endpoint group list --project demo",
    "endpoint group set public --name open",
    "endpoint group remove project open demo",
    "endpoint group delete open",
    "policy create --type application/json policy.json",
    "policy list --long",
    "identity provider create acme --enable --remote-id there --description d",
    "identity provider set acme --remote-id elsewhere",
    "identity provider show acme",
    "identity provider list",
    "mapping create people --rules rules.json",
    "mapping set people --rules rules.json",
    "mapping show people",
    "mapping list",
    "federation protocol create openid --identity-provider acme --mapping people",
    "federation protocol set openid --identity-provider acme --mapping people",
    "federation protocol show openid --identity-provider acme",
    "federation protocol list --identity-provider acme",
    "service provider create there --auth-url http://there.example.org/v3 --service-provider-url http://there.example.org",
    "service provider set there --disable",
    "service provider show there",
    "service provider list",
    "federation project list",
    "federation protocol delete openid --identity-provider acme",
    "mapping delete people",
    "identity provider delete acme",
    "service provider delete there",
    "domain create d --description x",
    "group create crew --domain d",
    "role create auditor --domain d",
    "role list --domain d",
    "role add --group crew --group-domain d --domain d reader",
    "role add --group crew --group-domain d --domain d --inherited member",
    "role assignment list --domain d --names",
    "role remove --group crew --group-domain d --domain d reader",
    "role add --user demo --system all reader",
    "role assignment list --system all --names",
    "role remove --user demo --system all reader",
    "project set demo --tag t --immutable",
    "project list --tags t",
    "project set demo --no-immutable",
    "region delete inner",
]


async def test_an_operators_commands(cloud: TestCloud, tmp_path: Path) -> None:
    """Limits, endpoint groups, policies, federation and roles by the command; then those that want ids."""
    (tmp_path / "filters.json").write_text('{"interface": "public"}')
    (tmp_path / "policy.json").write_text("{}")
    (tmp_path / "rules.json").write_text(RULES)
    async with served(cloud) as url:
        answers = await _commands(url, tmp_path, OPERATORS)
        made = [one for one in answers if isinstance(one, dict)]
        registered = next(one["id"] for one in made if "default_limit" in one)
        limit = next(one["id"] for one in made if "resource_limit" in one)
        policy = next(one["id"] for one in made if one.get("type") == "application/json")
        answers = await _commands(
            url,
            tmp_path,
            [
                f"limit set {limit} --resource-limit 7",
                f"limit show {limit}",
                f"limit delete {limit}",
                f"registered limit set {registered} --default-limit 20",
                f"registered limit show {registered}",
                f"registered limit delete {registered}",
                f"policy set {policy} --type text/plain",
                f"policy show {policy}",
                f"policy delete {policy}",
                "registered limit list",
            ],
        )
    shown = [one for one in answers if isinstance(one, dict)]
    assert {one.get("resource_limit") for one in shown} >= {7}
    assert {one.get("default_limit") for one in shown} >= {20}
    assert answers[-1] == []


def _json(command: str) -> str:
    shows = {"list", "show", "create", "issue"}
    return " -f json" if shows & set(command.split()) else ""


def _documents(text: str) -> list[str]:
    """The JSON documents among the prompts of the command's own shell."""
    found: list[str] = []
    decoder, place = json.JSONDecoder(), 0
    while place < len(text):
        if text[place] in "[{":
            try:
                _, end = decoder.raw_decode(text, place)
            except ValueError:
                place += 1
                continue
            found.append(text[place:end])
            place = end
        else:
            place += 1
    return found
