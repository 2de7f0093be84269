# SPDX-License-Identifier: Apache-2.0
"""What is kept of people and groups of a directory: how much is written for it, and whose a name is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from cumulet.identity.drivers import DirectoryFailed, Person, Team
from cumulet.identity.drivers.ldap import Ldap
from cumulet.kernel.db.database import in_transaction
from cumulet.kernel.db.postgres import PostgresDatabase
from cumulet.kernel.db.sqlite import SqliteDatabase
from cumulet.kernel.db.statements import Compiler
from tests.contract.identity.company import Company, public_id
from tests.directory import SUFFIX

pytestmark = pytest.mark.ldap


_THEIRS = re.compile(r"\b(users|groups|memberships|directory_ids|changes)\b")


@dataclass
class Counts:
    """Statements about users, groups and who is in them; those in transactions, and the most in one."""

    all: int = 0
    within: int = 0
    most: int = 0


@contextmanager
def counted() -> Iterator[Counts]:
    counts, prepare = Counts(), Compiler.prepare

    def counting(self: Compiler, statement: Any, params: Any) -> Any:
        made = prepare(self, statement, params)
        if _THEIRS.search(made[1]):
            counts.all += 1
            counts.within += in_transaction.get()
        return made

    def measured(run: Any) -> Any:
        async def running(self: Any, body: Any, **how: Any) -> Any:
            async def measuring(tx: Any) -> Any:
                before = counts.within
                try:
                    return await body(tx)
                finally:
                    counts.most = max(counts.most, counts.within - before)

            return await run(self, measuring, **how)

        return running

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Compiler, "prepare", counting)
        for kind in (SqliteDatabase, PostgresDatabase):
            patch.setattr(kind, "run", measured(kind.run))
        yield counts


def crowd(company: Company, many: int) -> list[str]:
    return [company.slapd.person(f"p{number:03}", "pw") for number in range(many)]


async def seen(company: Company) -> set[str]:
    """The names of the users of the domain who have rows of their own."""
    everybody = (await company.ask("GET", "/users")).json["users"]
    return {one["name"] for one in everybody if one["domain_id"] == company.domain}


async def test_what_is_as_it_was_is_only_read_and_in_bulk(company: Company) -> None:
    many = 120
    company.slapd.team("crew", *crowd(company, many))
    crew, project, reader = await company.group_id("crew"), await company.project(), await company.role("reader")
    with counted() as first:
        assert (await company.ask("PUT", f"/projects/{project}/groups/{crew}/roles/{reader}")).status == 204
    assert len(await seen(company)) == many
    assert first.all < 4 * many  # a user, what its id means, and that it is a member
    assert 0 < first.most < many  # others may write between the parts
    with counted() as again:
        await company.refresh()
    assert again.within == 0
    assert again.all < many / 2
    company.slapd.change(f"uid=p007,ou=people,{SUFFIX}", "cn", "james")
    with counted() as one:
        await company.refresh()
    assert "james" in await seen(company)
    assert 0 < one.within < 15


async def test_members_are_looked_at_only_where_a_role_depends_on_them(company: Company) -> None:
    company.slapd.team("crew", *crowd(company, 5))
    crew, project, reader = await company.group_id("crew"), await company.project(), await company.role("reader")
    assert (await company.ask("GET", f"/groups/{crew}")).status == 200
    await company.refresh()
    assert await seen(company) == set()
    roles = f"/projects/{project}/groups/{crew}/roles"
    anybody = await company.cloud.login("demo")
    assert (await company.ask("GET", roles, token=anybody)).status == 403
    assert (await company.ask("PUT", f"{roles}/{reader}", token=anybody)).status == 403
    assert (await company.ask("GET", roles)).status == 200
    assert await seen(company) == set()
    assert (await company.ask("PUT", f"{roles}/{reader}")).status == 204
    assert len(await seen(company)) == 5
    company.slapd.team("late", company.slapd.person("zoe", "pw"))
    company.slapd.change(f"cn=crew,ou=teams,{SUFFIX}", "member", f"uid=zoe,ou=people,{SUFFIX}")
    await company.refresh()
    assigned = (await company.ask("GET", f"/role_assignments?effective&scope.project.id={project}")).json
    members = {one["user"]["id"] for one in assigned["role_assignments"]}
    assert members == {public_id(company.domain, "user", "zoe")}


async def test_a_group_with_the_name_of_our_own_stops_no_other(company: Company) -> None:
    """Groups are named by their descriptions here, so that they can be renamed."""
    named = {"group_name_attribute": "description"}
    own = await company.own("group", "our own", **named)
    project, reader = await company.project(), await company.role("reader")
    holders = {}
    for name in ("one", "two", "three"):
        company.slapd.team(name, company.slapd.person(name, "pw"))
        group = public_id(company.domain, "group", name)
        await company.group_id(f"the%20{name}")
        assert (await company.ask("PUT", f"/projects/{project}/groups/{group}/roles/{reader}")).status == 204
        reply = await company.login(name, "pw", {"project": {"id": project}})
        holders[name] = reply.headers["x-subject-token"]
    company.slapd.change(f"cn=two,ou=teams,{SUFFIX}", "description", "our own")
    other = company.slapd.person("other", "pw")
    for name in ("one", "three"):
        company.slapd.change(f"cn={name},ou=teams,{SUFFIX}", "member", other)
    await company.refresh()
    for name, token in holders.items():
        assert (await company.ask("GET", "/auth/projects", token=token)).status == 401, name
    assert (await company.ask("GET", f"/groups/{own}")).json["group"]["name"] == "our own"
    assert (await company.ask("GET", f"/groups/{public_id(company.domain, 'group', 'two')}")).status == 404
    company.slapd.change(f"cn=two,ou=teams,{SUFFIX}", "description", "the two")
    assert (await company.ask("GET", f"/groups/{public_id(company.domain, 'group', 'two')}")).status == 200


async def test_a_group_whose_members_cannot_be_told_stops_no_other(
    company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, reader = await company.project(), await company.role("reader")
    scope, holders = {"project": {"id": project}}, {}
    for name in ("one", "two", "three"):
        company.slapd.team(name, company.slapd.person(name, "pw"))
        group = await company.group_id(name)
        assert (await company.ask("PUT", f"/projects/{project}/groups/{group}/roles/{reader}")).status == 204
        holders[name] = (await company.login(name, "pw", scope)).headers["x-subject-token"]
    members, other = Ldap.members, company.slapd.person("other", "pw")
    untold = min(holders, key=lambda name: public_id(company.domain, "group", name))  # the one that is asked for first

    def failing(self: Ldap, team: Team) -> list[Person]:
        if team.local_id == untold:
            raise DirectoryFailed("an answer of this one group is no answer")
        return members(self, team)

    monkeypatch.setattr(Ldap, "members", failing)
    for name in holders:
        company.slapd.change(f"cn={name},ou=teams,{SUFFIX}", "member", other)
    await company.refresh()
    standing = {
        name: (await company.ask("GET", "/auth/projects", token=token)).status for name, token in holders.items()
    }
    assert standing == {name: 200 if name == untold else 401 for name in holders}


async def test_a_person_with_the_name_of_our_own_user_is_nobody(company: Company) -> None:
    own, ann = await company.own("user", "carl"), company.slapd.person("ann", "pw")
    company.slapd.person("bob", "pw")
    tokens = {name: (await company.login(name, "pw")).headers["x-subject-token"] for name in ("ann", "bob")}
    company.slapd.change(ann, "cn", "carl")
    await company.refresh()
    assert (await company.ask("GET", "/auth/projects", token=tokens["ann"])).status == 401
    assert (await company.ask("GET", "/auth/projects", token=tokens["bob"])).status == 200
    assert (await company.ask("GET", f"/users/{public_id(company.domain, 'user', 'ann')}")).status == 404
    assert (await company.ask("GET", f"/users/{own}")).json["user"]["name"] == "carl"


async def test_two_people_of_one_name_change_nothing_by_being_looked_at(company: Company) -> None:
    await company.configure(user_name_attribute="sn")
    for uid in ("ann", "bob", "cid"):
        company.slapd.person(uid, "pw", sn="Miller")
        user = public_id(company.domain, "user", uid)
        assert len(await company.users()) > 0  # what the id means is known from a list
        assert (await company.login("", "pw", id=user)).status == 201
    await company.refresh()
    before = await company.sequence()
    for _ in range(3):
        await company.refresh()
    for uid in ("ann", "bob", "cid"):
        user = public_id(company.domain, "user", uid)
        assert (await company.login("", "pw", id=user)).status == 201
        shown = (await company.ask("GET", f"/users/{user}")).json["user"]
        assert shown["name"] == ("Miller" if uid == "ann" else user)
    assert await company.sequence() == before
    company.slapd.change(f"uid=ann,ou=people,{SUFFIX}", "sn", "Smith")
    await company.refresh()
    await company.refresh()
    names = [
        (await company.ask("GET", f"/users/{public_id(company.domain, 'user', uid)}")).json["user"]["name"]
        for uid in ("ann", "bob", "cid")
    ]
    assert names[0] == "Smith"
    assert (names[1] == "Miller") != (names[2] == "Miller")


async def test_names_are_swapped_when_people_swap_them(company: Company) -> None:
    ids = {}
    for name in ("ann", "bob", "cid"):
        company.slapd.person(name, "pw")
        ids[name] = (await company.login(name, "pw")).json["token"]["user"]["id"]
    for name, new in (("ann", "bob"), ("bob", "cid"), ("cid", "ann")):
        company.slapd.change(f"uid={name},ou=people,{SUFFIX}", "cn", new)
    await company.refresh()
    for name, new in (("ann", "bob"), ("bob", "cid"), ("cid", "ann")):
        assert (await company.ask("GET", f"/users/{ids[name]}")).json["user"]["name"] == new
    before = await company.sequence()
    await company.refresh()
    assert await company.sequence() == before
    company.slapd.change(f"uid=ann,ou=people,{SUFFIX}", "cn", "ann")
    company.slapd.change(f"uid=cid,ou=people,{SUFFIX}", "cn", "bob")
    for name, new in (("ann", "ann"), ("cid", "bob")):  # one request each, whose subject needs the other's name
        assert (await company.login(new, "pw")).json["token"]["user"] == {
            "id": ids[name], "name": new, "domain": {"id": company.domain, "name": "company"},
            "password_expires_at": None,
        }  # fmt: skip


async def test_who_is_gone_keeps_no_name_and_refuses_nothing(company: Company) -> None:
    ann = company.slapd.person("ann", "pw")
    company.slapd.team("crew", ann)
    user, crew = (await company.login("ann", "pw")).json["token"]["user"]["id"], await company.group_id("crew")
    assert (await company.ask("GET", f"/groups/{crew}")).status == 200
    assert (await company.ask("DELETE", f"/domains/{company.domain}/config")).status == 204
    await company.refresh()
    made = {}
    for kind, name in (("user", "ann"), ("group", "crew")):
        reply = await company.ask("POST", f"/{kind}s", {kind: {"name": name, "domain_id": company.domain}})
        assert reply.status == 201, reply.data
        made[kind] = reply.json[kind]["id"]
    assert (await company.ask("DELETE", f"/users/{user}")).status == 404
    assert (await company.ask("PATCH", f"/groups/{crew}", {"group": {"name": "x"}})).status == 404
    assert (await company.ask("PUT", f"/groups/{made['group']}/users/{user}")).status == 404
    assert (await company.ask("PUT", f"/groups/{made['group']}/users/{made['user']}")).status == 204
    for kind, one in made.items():
        assert (await company.ask("DELETE", f"/{kind}s/{one}")).status == 204
    await company.configure()
    assert (await company.login("ann", "pw")).json["token"]["user"]["id"] == user
    assert (await company.ask("GET", f"/groups/{crew}")).json["group"]["name"] == "crew"
    assert (await company.ask("DELETE", f"/users/{user}")).status == 403
