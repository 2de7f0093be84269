# SPDX-License-Identifier: Apache-2.0
"""Users and groups of a domain that are in LDAP, against a real slapd: shown, logged in, given roles, never written.

What is published was read from the reference of the domain configuration and from
the options' documentation; the form of the ids is the published one (SHA-256).
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from cumulet.kernel import clock
from tests.cloud import running_cloud
from tests.contract.identity.company import OPTIONS, Company, public_id
from tests.contract.identity.conftest import CHEAP
from tests.directory import READER_SECRET, SUFFIX, Slapd

pytestmark = pytest.mark.ldap


async def test_people_are_listed_and_shown(company: Company) -> None:
    for number in range(25):  # more than the server lists at once: pages are asked for
        company.slapd.person(f"p{number:02}", "pw", description=f"number {number}")
    company.slapd.person("off", "pw", employeeNumber="514")
    everybody = await company.users()
    assert len(everybody) == 26
    ids = {one["name"]: one["id"] for one in everybody}
    assert ids["p03"] == public_id(company.domain, "user", "p03")
    assert [one["id"] for one in everybody] == sorted(ids.values())
    shown = (await company.ask("GET", f"/users/{ids['p03']}")).json["user"]
    assert shown == {
        "id": ids["p03"], "name": "p03", "domain_id": company.domain, "enabled": True, "email": "3@example.org",
        "description": "number 3", "options": {}, "password_expires_at": None,
        "links": {"self": f"http://localhost/identity/v3/users/{ids['p03']}"},
    }  # fmt: skip
    assert [one["name"] for one in await company.users("&enabled=false")] == ["off"]
    assert [one["name"] for one in await company.users("&name=P03")] == ["p03"]
    assert len(await company.users("&name__startswith=p1")) == 10
    page = (await company.ask("GET", f"/users?domain_id={company.domain}&limit=20")).json
    rest = (await company.ask("GET", page["links"]["next"].partition("/v3")[2])).json
    assert [one["id"] for one in (*page["users"], *rest["users"])] == sorted(ids.values())
    assert (await company.ask("GET", f"/users/{public_id(company.domain, 'user', 'nobody')}")).status == 404


async def test_they_log_in_by_their_own_password(company: Company) -> None:
    company.slapd.person("ann", "wonderland")
    assert (await company.login("ann", "wonderland")).status == 201
    shown = (await company.login("ANN", "wonderland")).json["token"]["user"]
    assert shown["id"] == public_id(company.domain, "user", "ann")
    assert shown["domain"] == {"id": company.domain, "name": "company"}
    assert (await company.login("", "wonderland", id=shown["id"])).status == 201
    for password in ("wrong", "", "*", "x" * 5000):
        assert (await company.login("ann", password)).status == 401
    assert (await company.login("nobody", "wonderland")).status == 401
    company.slapd.change(f"uid=ann,ou=people,{SUFFIX}", "employeeNumber", "514")
    assert (await company.login("ann", "wonderland")).status == 401


async def test_guessing_is_slowed_down(tmp_path: Path, slapd: Slapd) -> None:
    settings = {"identity": {**CHEAP, "login_failures_per_minute": 3}}
    async with running_cloud(tmp_path, packages=[], settings=settings) as running:
        company = await Company(running, slapd).open()
        slapd.person("ann", "wonderland")
        assert [(await company.login("ann", "no")).status for _ in range(4)] == [401, 401, 401, 429]


HOSTILE = ["*", "a*", "x)(uid=*", "x)(|(uid=*", "\\2a", "ann)(objectClass=*", "a\0nn", "ann,ou=people", "(", "\\"]


async def test_a_name_is_nothing_but_a_name(company: Company) -> None:
    company.slapd.person("ann", "wonderland")
    company.slapd.person("abe", "wonderland")
    for name in HOSTILE:
        assert (await company.login(name, "wonderland")).status == 401, name
        found = await company.ask("GET", f"/users?domain_id={company.domain}&name={quote(name, safe='')}")
        assert (found.status, found.json["users"]) == (200, []), name


async def test_people_with_hostile_names_are_people(company: Company) -> None:
    company.slapd.person("ann", "wonderland")
    for uid in ('o\'hara, "x" + y=1', "x)(uid=*", "*", "back\\slash", "späth <ü>;#", " lead"):
        company.slapd.team("crew", dn := company.slapd.person(uid, "right"))
        assert (await company.login(uid, "right")).status == 201, uid
        assert (await company.login(uid, "wonderland")).status == 401, uid
        user, crew = public_id(company.domain, "user", uid), await company.group_id("crew")
        assert (await company.ask("GET", f"/users/{user}")).json["user"]["name"] == uid
        assert [one["id"] for one in (await company.ask("GET", f"/groups/{crew}/users")).json["users"]] == [user]
        assert (await company.ask("HEAD", f"/groups/{crew}/users/{user}")).status == 204
        company.slapd.remove(f"cn=crew,ou=teams,{SUFFIX}")
        company.slapd.remove(dn)


async def test_groups_and_who_is_in_them(company: Company) -> None:
    ann, bob = company.slapd.person("ann", "pw"), company.slapd.person("bob", "pw")
    company.slapd.team("crew", ann.upper(), "uid=ghost,ou=people,dc=elsewhere")
    company.slapd.team("staff", ann, bob)
    crew, staff = await company.group_id("crew"), await company.group_id("staff")
    assert crew == public_id(company.domain, "group", "crew")
    shown = (await company.ask("GET", f"/groups/{crew}")).json["group"]
    assert (shown["name"], shown["description"], shown["domain_id"]) == ("crew", "the crew", company.domain)
    user = await company.id_of("ann")
    assert [one["id"] for one in (await company.ask("GET", f"/groups/{crew}/users")).json["users"]] == [user]
    mine = (await company.ask("GET", f"/users/{user}/groups")).json["groups"]
    assert {one["id"] for one in mine} == {crew, staff}
    other = await company.id_of("bob")
    assert (await company.ask("HEAD", f"/groups/{crew}/users/{user}")).status == 204
    assert (await company.ask("HEAD", f"/groups/{crew}/users/{other}")).status == 404


async def test_roles_of_users_and_of_groups(company: Company) -> None:
    ann = company.slapd.person("ann", "pw")
    company.slapd.person("bob", "pw")
    company.slapd.team("crew", ann)
    project, member, reader = await company.project(), await company.role("member"), await company.role("reader")
    scope = {"project": {"id": project}}
    assert (await company.login("bob", "pw", scope)).status == 401
    bob, crew = await company.id_of("bob"), await company.group_id("crew")
    assert (await company.ask("PUT", f"/projects/{project}/users/{bob}/roles/{member}")).status == 204
    assert (await company.ask("PUT", f"/projects/{project}/groups/{crew}/roles/{reader}")).status == 204
    token = await company.login("bob", "pw", scope)
    assert {one["name"] for one in token.json["token"]["roles"]} == {"member", "reader"}
    assigned = (await company.ask("GET", f"/role_assignments?effective&scope.project.id={project}&include_names")).json
    named = {(one["user"]["name"], one["role"]["name"]) for one in assigned["role_assignments"]}
    assert named == {("ann", "reader"), ("bob", "member"), ("bob", "reader")}  # ann was never seen before
    by_group = await company.login("ann", "pw", scope)
    assert [one["name"] for one in by_group.json["token"]["roles"]] == ["reader"]
    holder = by_group.headers["x-subject-token"]
    mine = await company.ask("GET", "/auth/projects", token=holder)
    assert [one["id"] for one in mine.json["projects"]] == [project]
    assert (await company.ask("GET", "/users", token=holder)).status == 403
    company.slapd.change(f"cn=crew,ou=teams,{SUFFIX}", "member", f"uid=bob,ou=people,{SUFFIX}")
    await company.refresh()
    assert (await company.ask("GET", "/auth/projects", token=holder)).status == 401
    assert (await company.login("ann", "pw", scope)).status == 401


async def test_tokens_end_with_who_they_are_for(company: Company) -> None:
    ann, bob = company.slapd.person("ann", "pw"), company.slapd.person("bob", "pw")
    tokens = {name: (await company.login(name, "pw")).headers["x-subject-token"] for name in ("ann", "bob")}
    user = await company.id_of("ann")
    company.slapd.remove(ann)
    company.slapd.change(bob, "employeeNumber", "514")
    await company.refresh()
    for token in tokens.values():
        assert (await company.ask("GET", "/auth/projects", token=token)).status == 401
    assert (await company.ask("GET", f"/users/{user}")).status == 404
    company.slapd.person("ann", "pw")
    company.slapd.change(bob, "employeeNumber", "512")
    await company.refresh()
    for token in tokens.values():  # a new proof is needed
        assert (await company.ask("GET", "/auth/projects", token=token)).status == 401
    assert (await company.login("ann", "pw")).status == 201
    assert (await company.login("bob", "pw")).status == 201


async def test_names_change_hands(company: Company) -> None:
    ann, bob = company.slapd.person("ann", "a"), company.slapd.person("bob", "b")
    for name, password in (("ann", "a"), ("bob", "b")):
        assert (await company.login(name, password)).status == 201
    company.slapd.change(ann, "cn", "carl")
    company.slapd.change(bob, "cn", "ann")
    shown = (await company.login("ann", "b")).json["token"]["user"]
    assert (shown["name"], shown["id"]) == ("ann", public_id(company.domain, "user", "bob"))
    assert (await company.login("ann", "a")).status == 401
    assert (await company.login("carl", "a")).json["token"]["user"]["id"] == public_id(company.domain, "user", "ann")


async def test_nothing_is_written(company: Company) -> None:
    ann = company.slapd.person("ann", "pw")
    company.slapd.team("crew", ann)
    user, crew = await company.id_of("ann"), await company.group_id("crew")
    refused = [
        ("POST", "/users", {"user": {"name": "new", "domain_id": company.domain, "password": "pw"}}),
        ("PATCH", f"/users/{user}", {"user": {"name": "other"}}),
        ("PATCH", f"/users/{user}", {"user": {"options": {"lock_password": True}}}),
        ("DELETE", f"/users/{user}", None),
        ("POST", "/groups", {"group": {"name": "new", "domain_id": company.domain}}),
        ("PATCH", f"/groups/{crew}", {"group": {"name": "other"}}),
        ("DELETE", f"/groups/{crew}", None),
        ("PUT", f"/groups/{crew}/users/{user}", None),
        ("DELETE", f"/groups/{crew}/users/{user}", None),
    ]
    for method, path, body in refused:
        reply = await company.ask(method, path, body)
        assert reply.status == 403, (method, path, reply.data)
        assert reply.json["error"]["message"] == "LDAP does not support write operations"
    change = {"user": {"original_password": "pw", "password": "other"}}
    assert (await company.ask("POST", f"/users/{user}/password", change)).status == 403
    change["user"]["original_password"] = "guess"
    assert (await company.ask("POST", f"/users/{user}/password", change)).status == 401
    own = (await company.ask("POST", "/groups", {"group": {"name": "own"}})).json["group"]["id"]
    assert (await company.ask("PUT", f"/groups/{own}/users/{user}")).status == 403
    assert (await company.login("ann", "pw")).status == 201


async def test_without_an_answer_the_other_domains_go_on(company: Company) -> None:
    company.slapd.person("ann", "pw")
    token = (await company.login("ann", "pw")).headers["x-subject-token"]
    user = await company.id_of("ann")
    company.slapd.stop()
    for reply in (
        await company.login("ann", "pw"),
        await company.ask("GET", f"/users?domain_id={company.domain}"),
        await company.ask("GET", f"/users/{user}"),
    ):
        assert reply.status == 503
        assert "The directory of domain company gives no answer" in reply.json["error"]["message"]
    assert (await company.ask("GET", "/users?domain_id=default")).status == 200
    await company.refresh()
    assert (await company.ask("GET", "/auth/projects", token=token)).status == 200  # stands on what was seen last
    company.slapd.start()
    ends = clock.monotonic() + 60
    while (reply := await company.login("ann", "pw")).status == 503 and clock.monotonic() < ends:
        await asyncio.sleep(0.05)  # the pause after a failure
    assert reply.status == 201


async def test_secrets_are_in_no_log_and_in_no_answer(company: Company, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    company.slapd.person("ann", "the-password-of-ann")
    assert (await company.login("ann", "the-password-of-ann")).status == 201
    assert (await company.login("ann", "a-wrong-guess-of-ann")).status == 401
    await company.configure(password="a-wrong-secret")
    refused = await company.ask("GET", f"/users?domain_id={company.domain}")
    assert (refused.status, "Invalid credentials" in refused.json["error"]["message"]) == (503, True)
    shown = await company.ask("GET", f"/domains/{company.domain}/config")
    assert "password" not in shown.json["config"]["ldap"]
    for secret in ("the-password-of-ann", "a-wrong-guess-of-ann", "a-wrong-secret", READER_SECRET):
        assert secret not in caplog.text
        assert secret not in refused.data.decode() + shown.data.decode()


async def test_the_way_is_encrypted_and_the_server_is_who_it_says(company: Company) -> None:
    company.slapd.person("ann", "pw")
    plain, encrypted = company.slapd.url, company.slapd.tls_url
    ways: list[tuple[dict[str, Any], int]] = [
        ({"url": plain, "use_tls": True}, 201),
        ({"url": encrypted}, 201),
        ({"url": f"ldap://127.0.0.1:1,{encrypted}"}, 201),  # the first one is away
        ({"url": encrypted.replace("127.0.0.1", "localhost")}, 503),  # the certificate is not for that name
        ({"url": encrypted, "tls_cacertfile": None}, 503),
        ({"url": plain, "use_tls": True, "tls_cacertfile": None}, 503),
        ({"url": encrypted, "tls_cacertfile": None, "tls_req_cert": "never"}, 201),
    ]
    for way, status in ways:
        await company.configure(**{"tls_cacertfile": company.slapd.certificate, **way})
        assert (await company.login("ann", "pw")).status == status, way


async def test_who_is_enabled(company: Company) -> None:
    company.slapd.person("ann", "pw", employeeType="TRUE")
    bob = company.slapd.person("bob", "pw", employeeType="FALSE", employeeNumber="66050")
    company.slapd.team("allowed", bob)
    by_word = {"user_enabled_mask": 0, "user_enabled_attribute": "employeeType"}
    inverted = {**by_word, "user_enabled_invert": True, "user_enabled_default": "False"}
    emulated = {"user_enabled_emulation": True, "user_enabled_emulation_dn": f"cn=allowed,ou=teams,{SUFFIX}"}
    ways: list[tuple[dict[str, Any], dict[str, bool]]] = [
        ({}, {"ann": True, "bob": False}),
        (by_word, {"ann": True, "bob": False}),
        (inverted, {"ann": False, "bob": True}),
        ({"user_enabled_attribute": "title"}, {"ann": True, "bob": True}),
        (emulated, {"ann": False, "bob": True}),
        ({**emulated, "user_enabled_emulation_use_group_config": True}, {"ann": False, "bob": True}),
        ({"user_attribute_ignore": "enabled"}, {"ann": True, "bob": True}),
    ]
    for options, enabled in ways:
        await company.configure(**options)
        assert {one["name"]: one["enabled"] for one in await company.users()} == enabled, options
        assert {name: (await company.login(name, "pw")).status == 201 for name in enabled} == enabled, options


async def test_filters_places_and_more_attributes(company: Company) -> None:
    company.slapd.person("ann", "pw", title="Dr")
    company.slapd.person("bob", "pw", title="Mr")
    company.slapd.add(f"ou=far,ou=people,{SUFFIX}", ou="far", objectClass="organizationalUnit")
    values: dict[str, Any] = {"objectClass": "inetOrgPerson", "userPassword": "pw", "sn": "x", "title": "Dr"}
    company.slapd.add(f"uid=far,ou=far,ou=people,{SUFFIX}", uid="far", cn="far", **values)
    try:
        assert {one["name"] for one in await company.users()} == {"ann", "bob"}
        await company.configure(user_filter="(title=Dr)", user_additional_attribute_mapping="title:rank,sn:family")
        assert [(one["name"], one["rank"], one["family"]) for one in await company.users()] == [("ann", "Dr", "Ann")]
        await company.configure(user_filter="(title=Dr)", query_scope="sub", page_size=0)
        assert {one["name"] for one in await company.users()} == {"ann", "far"}
        assert (await company.login("bob", "pw")).status == 401
        assert (await company.login("far", "pw")).status == 201
    finally:
        company.slapd.remove(f"uid=far,ou=far,ou=people,{SUFFIX}")


async def test_what_cannot_be_is_named(company: Company) -> None:
    wrong = {
        "url": "file:///etc/passwd", "page_size": "many", "user_id_attribute": "uid=*)(x", "user_filter": "(broken",
    }  # fmt: skip
    for option, value in wrong.items():
        await company.configure(**{option: value})
        reply = await company.ask("GET", f"/users?domain_id={company.domain}")
        assert reply.status == 503
        assert ("Bad search filter" if option == "user_filter" else f"option {option}") in reply.json["error"][
            "message"
        ]


async def test_members_may_be_ids(company: Company) -> None:
    company.slapd.person("ann", "pw")
    company.slapd.add(
        f"cn=crew,ou=teams,{SUFFIX}", cn="crew", objectClass="organizationalRole", description="d", street="ann"
    )
    await company.configure(
        group_objectclass="organizationalRole", group_member_attribute="street", group_members_are_ids=True
    )
    crew, user = await company.group_id("crew"), await company.id_of("ann")
    assert [one["id"] for one in (await company.ask("GET", f"/groups/{crew}/users")).json["users"]] == [user]
    assert [one["id"] for one in (await company.ask("GET", f"/users/{user}/groups")).json["groups"]] == [crew]


async def test_our_own_users_of_the_domain_stay(tmp_path: Path, slapd: Slapd) -> None:
    """The settings file gives the default domain, where the cloud's own accounts are, a directory."""
    slapd.person("ann", "pw")
    slapd.person("admin", "pw-of-another")
    directory = {"url": slapd.url, **OPTIONS}
    settings = {"identity": {**CHEAP, "directories": {"Default": directory}}}
    async with running_cloud(tmp_path, packages=[], settings=settings) as running:
        company = Company(running, slapd)
        company.domain, company.token = "default", await running.login("admin")
        assert (await company.login("ann", "pw")).status == 201
        assert (await company.login("admin", "pw-of-another")).status == 401
        names = [one["name"] for one in await company.users()]
        assert {"admin", "demo", "ann"} <= set(names)
        body = {"user": {"name": "new", "password": "pw"}}
        assert (await company.ask("POST", "/users", body)).status == 403
        assert (await company.ask("DELETE", f"/users/{await company.id_of('demo')}")).status == 204


async def test_a_domain_leaves_its_directory(company: Company) -> None:
    company.slapd.person("ann", "pw")
    token = (await company.login("ann", "pw")).headers["x-subject-token"]
    user = await company.id_of("ann")
    credential = {"application_credential": {"name": "c"}}
    assert (await company.ask("POST", f"/users/{user}/application_credentials", credential, token)).status in (400, 403)
    assert (await company.ask("DELETE", f"/domains/{company.domain}/config")).status == 204
    await company.refresh()
    assert (await company.ask("GET", "/auth/projects", token=token)).status == 401
    assert (await company.ask("GET", f"/users/{user}")).status == 404
    assert await company.users() == []
    assert (await company.login("ann", "pw")).status == 401
    await company.configure()
    assert (await company.login("ann", "pw")).json["token"]["user"]["id"] == user
    gone = await company.ask("PATCH", f"/domains/{company.domain}", {"domain": {"enabled": False}})
    assert gone.status == 200
    assert (await company.login("ann", "pw")).status == 401
    assert (await company.ask("DELETE", f"/domains/{company.domain}")).status == 204
