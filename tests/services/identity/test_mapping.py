# SPDX-License-Identifier: Apache-2.0
"""The mapping engine: what each kind of rule makes of an assertion, and that neither can reach beyond the other."""

from __future__ import annotations

from typing import Any

import pytest

from cumulet.identity.logic import Identity, federation
from cumulet.identity.logic.listing import Page
from cumulet.identity.logic.mapping import BrokenMapping, check_rules, evaluate
from cumulet.identity.logic.users import create_group
from cumulet.kernel.errors import Forbidden, Internal, Invalid

SAYS = {
    "UserName": "bob",
    "Email": "bob@example.org",
    "orgPersonType": "Tester;Employee",
    "Groups": "crew;guests;admins",
}


def _rules(local: list[dict[str, Any]], *remote: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"local": local, "remote": list(remote)}]


NAME = {"user": {"name": "{0}"}}


@pytest.mark.parametrize(
    ("remote", "fits"),
    [
        ({"type": "UserName"}, True),
        ({"type": "Nothing"}, False),
        ({"type": "orgPersonType", "any_one_of": ["Employee", "Boss"]}, True),
        ({"type": "orgPersonType", "any_one_of": ["Boss"]}, False),
        ({"type": "orgPersonType", "any_one_of": ["^Emp"], "regex": True}, True),
        ({"type": "orgPersonType", "any_one_of": ["^mployee"], "regex": True}, False),
        ({"type": "orgPersonType", "any_one_of": ["^Emp"]}, False),
        ({"type": "orgPersonType", "not_any_of": ["Boss"]}, True),
        ({"type": "orgPersonType", "not_any_of": ["Tester"]}, False),
        ({"type": "orgPersonType", "not_any_of": ["test"], "regex": True}, True),
        ({"type": "orgPersonType", "not_any_of": ["est"], "regex": True}, False),
    ],
)
def test_whether_a_rule_fits(remote: dict[str, Any], fits: bool) -> None:
    rules = _rules([NAME], {"type": "UserName"}, remote)
    if fits:
        assert evaluate(rules, "1.0", SAYS).user == {"name": "bob", "type": "ephemeral"}
    else:
        with pytest.raises(Invalid, match="Could not map any federated user properties"):
            evaluate(rules, "1.0", SAYS)


@pytest.mark.parametrize(
    ("remote", "names"),
    [
        ({"type": "Groups"}, ["crew", "guests", "admins"]),
        ({"type": "Groups", "whitelist": ["crew", "others"]}, ["crew"]),
        ({"type": "Groups", "blacklist": ["admins"]}, ["crew", "guests"]),
        ({"type": "Groups", "whitelist": ["s$"], "regex": True}, ["guests", "admins"]),
        ({"type": "Groups", "blacklist": ["s$"], "regex": True}, ["crew"]),
        ({"type": "UserName"}, ["bob"]),
    ],
)
def test_groups_by_name(remote: dict[str, Any], names: list[str]) -> None:
    mapped = evaluate(_rules([{"groups": "{0}", "domain": {"id": "d"}}], remote), "1.0", SAYS)
    assert mapped.group_names == [{"name": name, "domain": {"id": "d"}} for name in names]


def test_conditions_are_not_counted_by_templates() -> None:
    wishes = ({"type": "orgPersonType", "any_one_of": ["Tester"]}, {"type": "UserName"}, {"type": "Email"})
    user = {"name": "{0}", "email": "<{1}>", "id": "{{0}}"}
    assert evaluate(_rules([{"user": user}], *wishes), "1.0", SAYS).user == {
        "name": "bob", "email": "<bob@example.org>", "id": "{0}", "type": "ephemeral"
    }  # fmt: skip


def test_all_fitting_rules_speak_and_the_first_names_the_user() -> None:
    rules = [
        *_rules([NAME, {"group": {"id": "a"}}], {"type": "UserName"}),
        *_rules(
            [{"user": {"name": "other"}}, {"group_ids": "{0}"}], {"type": "Groups", "whitelist": ["crew", "guests"]}
        ),
        *_rules([{"group": {"name": "n", "domain": {"name": "d"}}}], {"type": "Email"}),
        *_rules([{"group": {"name": "n", "domain": {"name": "d"}}}, {"group_ids": "a"}], {"type": "Email"}),
        *_rules([{"group": {"id": "never"}}], {"type": "Nothing"}),
    ]
    mapped = evaluate(rules, "1.0", SAYS)
    assert mapped.user["name"] == "bob"
    assert mapped.group_ids == ["a", "crew", "guests"]
    assert mapped.group_names == [{"name": "n", "domain": {"name": "d"}}]


def test_groups_that_bring_their_domain() -> None:
    says = {"Groups": 'JSON:{"name": "crew", "domain": {"id": "x"}}'}
    local = {"groups": "{0}"}
    assert evaluate(_rules([local], {"type": "Groups"}), "1.0", says).group_names == [
        {"name": "crew", "domain": {"id": "x"}}
    ]
    with pytest.raises(Invalid, match="Both 'groups' and 'domain' keywords must be specified"):
        evaluate(_rules([local], {"type": "Groups"}), "1.0", {"Groups": "crew"})


def test_a_domain_is_the_default_since_version_2() -> None:
    projects = [{"name": "p", "roles": [{"name": "reader"}]}, {"name": "q", "roles": [], "domain": {"id": "own"}}]
    local = {**NAME, "projects": projects, "domain": {"id": "d"}}
    rules = _rules([local], {"type": "UserName"})
    assert evaluate(rules, "1.0", SAYS).projects == projects
    mapped = evaluate(rules, "2.0", SAYS)
    assert [project["domain"]["id"] for project in mapped.projects] == ["d", "own"]
    assert mapped.user["domain"] == {"id": "d"}


def test_projects_from_the_assertion_since_version_3() -> None:
    says = {"UserName": "bob", "Projects": '[{"name": "p", "roles": [{"name": "reader"}]}]'}
    rules = _rules(
        [{**NAME, "projects_json": "{1}", "domain": {"id": "d"}}], {"type": "UserName"}, {"type": "Projects"}
    )
    assert evaluate(rules, "3.0", says).projects == [
        {"name": "p", "roles": [{"name": "reader"}], "domain": {"id": "d"}}
    ]
    with pytest.raises(Invalid):
        evaluate(rules, "3.0", {**says, "Projects": '[{"name": "p"}]'})
    with pytest.raises(Invalid):
        evaluate(rules, "3.0", {**says, "Projects": "nothing"})


@pytest.mark.parametrize("template", ["{1}", "{0} {7}", "{99999999999999999999}"])
def test_a_template_that_names_no_match_is_the_operators_mistake(template: str) -> None:
    with pytest.raises(BrokenMapping):
        evaluate(_rules([{"user": {"name": template}}], {"type": "UserName"}), "1.0", SAYS)


@pytest.mark.parametrize("template", ["{0.__class__}", "{0!r}", "{0:>9999999}", "{name}"])
def test_a_template_can_do_nothing_but_name_a_match(template: str) -> None:
    assert evaluate(_rules([{"user": {"name": template}}], {"type": "UserName"}), "1.0", SAYS).user["name"] == template


@pytest.mark.parametrize("hostile", ["__import__('os')", "[__import__('os')]", "[" * 5000, "['a'] + ['b']", "{0}"])
def test_what_an_assertion_says_is_data(hostile: str) -> None:
    rules = _rules([{"groups": "{0}", "domain": {"id": "d"}}], {"type": "Groups"})
    assert evaluate(rules, "1.0", {"Groups": hostile}).group_names == [{"name": hostile, "domain": {"id": "d"}}]


@pytest.mark.parametrize("pattern", ["(", "[a", "(?P<x", 7])
def test_patterns_are_checked_before_they_are_kept(pattern: Any) -> None:
    rules = _rules([NAME], {"type": "UserName", "any_one_of": [pattern], "regex": True})
    with pytest.raises(Invalid, match="not a valid regular expression"):
        check_rules({"rules": rules}, "1.0")


def test_unknown_versions_are_refused() -> None:
    with pytest.raises(Invalid, match=r"4\.0"):
        check_rules({"rules": _rules([NAME], {"type": "UserName"})}, "4.0")


async def test_an_assertion_through_provider_protocol_and_mapping(identity: Identity) -> None:
    database, feed = identity.database, identity.feed
    crew = await create_group(database, {"name": "crew", "domain_id": "default"})
    rules = _rules(
        [NAME, {"groups": "{1}", "domain": {"name": "Default"}}, {"group_ids": crew["id"]}],
        {"type": "UserName"},
        {"type": "Groups"},
    )
    await federation.create_mapping(database, "people", {"rules": rules})
    await federation.create_provider(database, feed, "acme", {"enabled": True, "remote_ids": ["acme"]})
    sent = {"mapping_id": "people", "remote_id_attribute": "issuer"}
    await federation.create_protocol(database, "acme", "openid", sent)

    mapped = await federation.recognize(database, "acme", "openid", {**SAYS, "issuer": "acme"})
    assert mapped.user["name"] == "bob"
    assert mapped.group_ids == [crew["id"]]  # those of other names are nobody's

    with pytest.raises(Invalid, match="Could not find Identity Provider identifier"):
        await federation.recognize(database, "acme", "openid", SAYS)
    with pytest.raises(Forbidden, match="not included among the accepted identifiers"):
        await federation.recognize(database, "acme", "openid", {**SAYS, "issuer": "evil"})
    await federation.update_provider(database, feed, "acme", {"enabled": False})
    with pytest.raises(Forbidden, match="disabled"):
        await federation.recognize(database, "acme", "openid", {**SAYS, "issuer": "acme"})
    await federation.update_provider(database, feed, "acme", {"enabled": True})
    gone = _rules([NAME, {"group": {"id": "gone"}}], {"type": "UserName"})
    await federation.update_mapping(database, "people", {"rules": gone})
    with pytest.raises(Internal):
        await federation.recognize(database, "acme", "openid", {**SAYS, "issuer": "acme"})
    assert [row["id"] for row in (await federation.list_mappings(database, Page()))[0]] == ["people"]
