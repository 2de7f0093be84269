# SPDX-License-Identifier: Apache-2.0
"""What a token that was made with something handed out may not do: make or show more of it.

A user proves who he is by a password, a token made with one, or a passcode;
tokens of trusts, application credentials, OAuth1 and EC2 keys are worth less.
"""

from __future__ import annotations

from cumulet.identity.api.answers import identity_of
from cumulet.identity.logic.tokens import Seen
from cumulet.kernel.errors import Forbidden
from cumulet.kernel.http import Request


async def asking(request: Request) -> Seen:
    """The token that the request itself was sent with."""
    token = request.context.token
    assert token is not None
    return await identity_of(request).tokens.read(token, allow_expired=True)


async def refuse_delegated(request: Request, message: str) -> Seen:
    """Raise Forbidden for a token made with a trust or with anything that a user handed out."""
    seen = await asking(request)
    if seen.delegated:
        raise Forbidden(message)
    return seen


async def refuse_secondary(request: Request, message: str) -> Seen:
    """Raise Forbidden for a token that no proof of its own made; that of a trust is as good as its trustee's proof."""
    seen = await asking(request)
    if seen.claims.delegated:
        raise Forbidden(message)
    return seen
