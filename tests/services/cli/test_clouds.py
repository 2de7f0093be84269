# SPDX-License-Identifier: Apache-2.0
"""clouds.yaml as other clients read it, and `cumulet env`."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from openstack.config import OpenStackConfig

from cumulet.cli import main
from cumulet.cli.clouds import ALIASES, CLOUDS, write_clouds

URL = "http://127.0.0.1:8080/identity"
pytestmark = pytest.mark.filterwarnings("ignore:Support for InfluxDB")  # the SDK's own
HOSTILE = 'a"b\\c: {d} #e\n'


def auth_of(path: Path, name: str) -> Any:
    return OpenStackConfig(config_files=[str(path)], vendor_files=[], secure_files=[]).get_one(name).config


def test_the_sdk_reads_every_cloud(tmp_path: Path) -> None:
    path = write_clouds(tmp_path, URL, "the-password")
    for name, user, scope in [
        ("cumulet", "demo", {"project_name": "demo"}),
        ("cumulet-alt", "alt_demo", {"project_name": "alt_demo"}),
        ("cumulet-admin", "admin", {"project_name": "admin"}),
        ("cumulet-system", "admin", {"system_scope": "all"}),
    ]:
        config = auth_of(path, name)
        assert config["region_name"] == "RegionOne"
        assert config["auth"]["auth_url"] == URL
        assert config["auth"]["username"] == user
        assert config["auth"]["password"] == "the-password"
        assert config["auth"].items() >= scope.items()
    assert "project_name" not in auth_of(path, "cumulet-system")["auth"]


def test_the_names_of_devstack_are_the_same_clouds(tmp_path: Path) -> None:
    clouds = yaml.safe_load(write_clouds(tmp_path, URL, "p").read_text())["clouds"]
    assert set(clouds) == {*CLOUDS, *ALIASES}
    for alias, name in ALIASES.items():
        assert clouds[alias] == clouds[name]


def test_nobody_else_can_read_it_whatever_was_there(tmp_path: Path) -> None:
    (tmp_path / "clouds.yaml").write_text("old")
    (tmp_path / "clouds.yaml").chmod(0o644)
    path = write_clouds(tmp_path, URL, "p")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["clouds.yaml"]


def test_any_password_survives(tmp_path: Path) -> None:
    path = write_clouds(tmp_path, URL, HOSTILE, cacert=tmp_path / "ca: x.pem")
    assert auth_of(path, "cumulet")["auth"]["password"] == HOSTILE
    assert auth_of(path, "cumulet")["cacert"] == str(tmp_path / "ca: x.pem")


def test_env_is_for_the_shell(tmp_path: Path) -> None:
    data = tmp_path / "with space"
    data.mkdir()
    write_clouds(data, URL, "p")
    told = CliRunner().invoke(main, ["env", "--data", str(data), "--os-cloud", "cumulet-admin"])
    assert told.output == f"export OS_CLIENT_CONFIG_FILE='{data}/clouds.yaml'\nexport OS_CLOUD=cumulet-admin\n"
    told = CliRunner().invoke(main, ["env", "--json"], env={"CUMULET_DATA": str(data)})
    assert json.loads(told.output) == {"OS_CLIENT_CONFIG_FILE": f"{data}/clouds.yaml", "OS_CLOUD": "cumulet"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no cloud here yet ({file} is missing); start it with: cumulet up --data {data}"),
        ("clouds: [", "{file} can't be read: "),
        ("[]", "{file} knows no cloud 'cumulet'; it knows: none"),
        ("clouds: {other: {}}", "{file} knows no cloud 'cumulet'; it knows: other"),
        ("clouds: {cumulet: {auth: {auth_url: 'http://x'}}}", "{file}: cloud 'cumulet' lacks auth.username"),
    ],
)
def test_what_is_wrong_with_the_file_is_said(tmp_path: Path, content: str | None, said: str) -> None:
    file = tmp_path / "clouds.yaml"
    if content is not None:
        file.write_text(content)
    result = CliRunner().invoke(main, ["flow", "x", "--data", str(tmp_path)])
    assert result.exit_code == 1
    assert result.stderr.startswith("cumulet: " + said.format(file=file, data=tmp_path))
    assert result.stdout == ""


def test_a_cloud_that_does_not_run_is_said_to(tmp_path: Path) -> None:
    write_clouds(tmp_path, "http://127.0.0.1:9/identity", "p")
    result = CliRunner().invoke(main, ["flow", "x", "--data", str(tmp_path)])
    assert result.exit_code == 1
    assert result.stderr == (
        f"cumulet: the cloud does not answer at http://127.0.0.1:9; start it with: cumulet up --data {tmp_path}\n"
    )


def test_the_environment_names_a_file_too(tmp_path: Path) -> None:
    path = write_clouds(tmp_path, URL, "p")
    told = CliRunner().invoke(main, ["env"], env={"OS_CLIENT_CONFIG_FILE": str(path), "CUMULET_DATA": None})
    assert f"export OS_CLIENT_CONFIG_FILE={path}\n" in told.output
