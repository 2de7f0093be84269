# SPDX-License-Identifier: Apache-2.0
"""Operators' policy files: what is wrong is named and stops the start; what changes is read again."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from cumulet.kernel.context import Context
from cumulet.kernel.policy import Policy, PolicyError, Rule
from cumulet.kernel.policyfiles import PolicyConfig, PolicyFiles
from cumulet.kernel.settings import SettingsError
from tests.cloud import running_cloud

READER = Context("", user_id="u", project_id="p", roles=["reader"])
ADMIN = Context("", user_id="u", project_id="p", roles=["admin"])
RULES = [Rule("admin_required", "role:admin"), Rule("things:list", "rule:admin_required"), Rule("things:drop", "!")]


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        ({"things:lst": "role:reader"}, "things:lst: no such rule; did you mean things:list?"),
        ({"things:list": "role:reader and"}, "things:list: policy rule ends too early"),
        ({"things:list": "(role:reader"}, "things:list: a parenthesis is not closed in a policy rule"),
        ({"things:list": "reader"}, "things:list: 'reader' is not a policy check"),
        (
            {"things:list": "rule:admin_requird"},
            "things:list: it refers to admin_requird, and there is no such rule; did",
        ),
        (
            {"things:list": "rule:mine", "mine": "rule:things:list"},
            "things:list: it leads to itself: things:list → mine",
        ),
        ({"admin_required": "rule:things:list"}, "it leads to itself"),
        ({"things:list": "field:things:name=~("}, "things:list: "),
    ],
)
def test_a_wrong_rule_is_named_and_changes_nothing(texts: dict[str, str], told: str) -> None:
    policy = Policy(RULES)
    with pytest.raises(PolicyError) as error:
        policy.override(texts)
    assert told in str(error.value)
    assert policy.allows("things:list", ADMIN)
    assert not policy.allows("things:list", READER)


def test_rules_of_the_operators_own_may_be_referred_to() -> None:
    policy = Policy(RULES)
    policy.override({"things:list": "rule:watchers or rule:admin_required", "watchers": "role:reader"})
    assert policy.allows("things:list", READER)
    policy.override({})
    assert not policy.allows("things:list", READER)


def files(folder: Path, policy: Policy) -> PolicyFiles:
    made = PolicyFiles(PolicyConfig(directory=str(folder)), folder, {"things": policy})
    made.load()
    return made


def change(file: Path, text: str) -> None:
    """Write a file so that its time differs however coarse the file system's clock is."""
    before = file.stat().st_mtime_ns if file.exists() else 0
    file.write_text(text)
    os.utime(file, ns=(before + 1_000_000_000, before + 1_000_000_000))


async def test_a_changed_file_is_read_again_and_a_wrong_one_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy, file = Policy(RULES), tmp_path / "things.yaml"
    rules = files(tmp_path, policy)
    assert not policy.allows("things:list", READER)
    change(file, '"things:list": "role:reader"\n')
    await rules.look()
    assert policy.allows("things:list", READER)
    change(file, '"things:list": "role:"reader\n')
    with caplog.at_level(logging.ERROR):
        await rules.look()
    assert "the policy of things stays as it was" in caplog.text
    assert policy.allows("things:list", READER)
    change(file, json.dumps({"things:drop": "@"}))
    await rules.look()
    assert not policy.allows("things:list", READER)
    assert policy.allows("things:drop", READER)
    file.unlink()
    await rules.look()
    assert not policy.allows("things:drop", READER)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- things:list", "it must map names of rules to rules"),
        ("things:list: [[role:reader]]", "things:list: a rule is a text, not list"),
        ("a: b: c", "mapping values are not allowed here"),
    ],
)
def test_a_file_that_holds_no_rules_is_refused(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "things.yaml").write_text(text)
    with pytest.raises(SettingsError) as error:
        files(tmp_path, Policy(RULES))
    assert told in str(error.value)
    assert "things.yaml" in str(error.value)


def test_a_missing_directory_or_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is no directory"):
        PolicyFiles(PolicyConfig(directory=str(tmp_path / "none")), tmp_path, {})
    with pytest.raises(SettingsError, match="things: there is no file"):
        PolicyFiles(PolicyConfig(files={"things": str(tmp_path / "none")}), tmp_path, {})


async def test_an_operators_file_changes_who_may_do_what(tmp_path: Path) -> None:
    folder = tmp_path / "rules"
    folder.mkdir()
    (folder / "identity.yaml").write_text('"identity:list_regions": "role:admin"\n"identity:list_users": "@"\n')
    settings = {"policy": {"directory": str(folder)}}
    async with running_cloud(tmp_path / "cloud", packages=(), settings=settings) as cloud:
        member = await cloud.login("demo")
        assert (await cloud.request("GET", "/identity/v3/users", token=member)).status == 200
        assert (await cloud.request("GET", "/identity/v3/regions", token=member)).status == 403


async def test_a_wrong_file_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "image.yaml").write_text('"get_imags": "@"\n')
    with pytest.raises(SettingsError, match=r"image\.yaml: get_imags: no such rule; did you mean get_images\?"):
        async with running_cloud(tmp_path, packages=("image",)):
            pass


async def test_a_file_of_no_service_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("{}")
    settings = {"policy": {"files": {"keystone": str(tmp_path / "mine.yaml")}}}
    with pytest.raises(SettingsError, match=r"\[policy\] files: keystone: no such service"):
        async with running_cloud(tmp_path, packages=(), settings=settings):
            pass


async def test_a_file_that_could_not_be_read_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when an operator forgot whose file it is, and mends that: its time and size stay what they were."""
    policy = Policy(RULES)
    found = files(tmp_path, policy)
    (tmp_path / "things.yaml").write_text('"things:list": "role:reader"\n')

    def refuse(self: Path, *_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", refuse)
        await found.look()
    assert not policy.allows("things:list", READER)
    await found.look()
    assert policy.allows("things:list", READER)
