# SPDX-License-Identifier: Apache-2.0
"""The settings of identity, section ``[identity]``; times in seconds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from cumulet.identity.drivers import DirectoryFailed
from cumulet.identity.drivers.options import make_options, unknown

Positive = Annotated[int, msgspec.Meta(ge=1)]
Natural = Annotated[int, msgspec.Meta(ge=0)]


class IdentitySettings(msgspec.Struct, frozen=True):
    """What an operator may choose; the defaults are the published ones."""

    token_lifetime: Positive = 3600
    """How long a new token is valid."""
    expired_window: Annotated[int, msgspec.Meta(ge=0)] = 172_800
    """How long after its end a token may still be validated with ``allow_expired``."""
    region: str = "RegionOne"
    """The region of the cloud's own endpoints."""
    page_limit: Positive = 1000
    """The largest page that a list request gets when it asks for pages."""
    list_limit: Positive | None = None
    """How much of a list is shown to who asks for no limit; the answer is then marked as truncated."""
    project_tree_depth: Positive = 5
    """How many projects may stand below one another under a domain."""
    hash_memory_kib: Annotated[int, msgspec.Meta(ge=8, le=4_194_304)] = 19_456
    """Memory of one Argon2id password hash."""
    hash_passes: Positive = 2
    """Passes of one Argon2id password hash."""
    enforcement_model: Literal["flat", "strict_two_level"] = "flat"
    """How limits of projects and of their domains stand to one another."""
    whole_catalogue_without_filter: bool = True
    """A project that no endpoint is associated with gets all endpoints (else none)."""
    rescope_scoped_tokens: bool = True
    """Whether a token with a scope may be exchanged for one with another scope."""
    receipt_lifetime: Positive = 300
    """How long a receipt stands for the methods by which a user has proved who he is so far."""
    totp_windows: Natural = 1
    """How many earlier passcodes (of 30 seconds each) are good besides the present one."""
    ec2_window: Positive = 900
    """How old a signed EC2 or S3 request may be."""
    max_redelegation_count: Positive = 3
    """How often a trust may be passed on."""
    request_token_lifetime: Natural = 28_800
    """How long an OAuth1 request token waits for its user; 0: forever."""
    access_token_lifetime: Natural = 86_400
    """How long an OAuth1 access token is good; 0: forever."""
    lockout_failure_attempts: Natural = 0
    """Wrong passwords in a row that lock an account; 0: it is never locked."""
    lockout_duration: Natural = 1800
    """How long a locked account stays so; 0: until its password or `enabled` is set."""
    password_expires_days: Natural = 0
    """Days that a new password is good; 0: forever."""
    unique_last_password_count: Natural = 0
    """How many of a user's last passwords it may not choose again."""
    minimum_password_age: Natural = 0
    """Days before a user may change again a password that it chose."""
    password_regex: str = ""
    """What a new password must match from its beginning; empty: anything will do."""
    password_regex_description: str = ""
    """The same for people."""
    change_password_upon_first_use: bool = False
    """Whether a password that an admin has set is good for choosing another one only."""
    disable_user_account_days_inactive: Natural = 0
    """Days without a login after which an account is disabled; 0: never."""
    login_failures_per_minute: Natural = 20
    """Wrong passwords for one user from one address before more of them have to wait; 0: they never have to."""
    directories: dict[str, dict[str, Any]] = {}
    """Domains (by name) whose users and groups are in an LDAP directory, each with the published options of it."""
    directory_refresh: Positive = 60
    """Seconds after which everybody of a directory who is used here is looked at again."""

    def __post_init__(self) -> None:
        for name, options in self.directories.items():
            if wrong := unknown(options):
                raise ValueError(f"directories.{name}: no such option: {', '.join(wrong)}")
            try:
                make_options(options)
            except DirectoryFailed as error:
                raise ValueError(f"directories.{name}: {error}") from None
