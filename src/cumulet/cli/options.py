# SPDX-License-Identifier: Apache-2.0
"""Options that several commands share, said once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

SYSTEM_DATA, UNDER_HOME = "/var/lib/cumulet", ".local/share/cumulet"
DEFAULT_DATA = SYSTEM_DATA if os.geteuid() == 0 else os.path.expanduser(f"~/{UNDER_HOME}")
"""Where a cloud lives unless told otherwise: root's beside the machine's other services, a user's in the home."""

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

data_option = click.option(
    "--data", type=click.Path(path_type=Path), default=DEFAULT_DATA, envvar="CUMULET_DATA", show_default=True,
    help="Data directory of the cloud; processes of one cloud may share it.",
)  # fmt: skip
settings_option = click.option(
    "--settings", type=_FILE, envvar="CUMULET_SETTINGS", help="The settings file (TOML) of the cloud.",
)  # fmt: skip
address_option = click.option("--host", "address", default="127.0.0.1", show_default=True, help="Address to listen on.")
name_option = click.option("--name", default=None, help="Name of this host in the cloud.  [default: the host's name]")
hypervisor_option = click.option(
    "--hypervisor", type=click.Choice(["auto", "libvirt", "simulated"]), default="auto", show_default=True,
    help="Real guests, simulated ones, or whatever this machine can do.",
)  # fmt: skip
certificate_option = click.option("--tls-cert", type=_FILE, help="Certificate chain (PEM): serve TLS.")
key_option = click.option("--tls-key", type=_FILE, help="Its private key (PEM).")
guest_image_option = click.option("--guest-image", type=_FILE, help="The image 'tiny' of a new cloud.")
log_json_option = click.option("--log-json", is_flag=True, help="Write log lines as JSON.")


def process_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What every process of a cloud that serves something takes."""
    options = (
        settings_option, data_option, address_option, name_option, hypervisor_option, certificate_option, key_option,
        guest_image_option, log_json_option,
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command
