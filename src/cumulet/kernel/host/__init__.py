# SPDX-License-Identifier: Apache-2.0
"""What needs root: an allow-list of typed operations, carried out by a small privileged parent.

Invariant: the process that parses requests, images and guest input has no
privilege; it can only name an operation of the list and hand over one typed
value, which the privileged side validates again before it acts. The list
comes from the caller, so the kernel knows no service.

``run_privileged`` (module ``parent``) starts the pair of processes; ``Host``
is what the unprivileged side sees; ``DirectHost`` carries the same operations
out in this process (tests run as root, clouds that need no privilege).
"""

from cumulet.kernel.host.channel import ChannelHost, serve
from cumulet.kernel.host.direct import DirectHost
from cumulet.kernel.host.model import Fds, Host, HostError, Operations, name_of
from cumulet.kernel.host.parent import drop_privileges, run_privileged

__all__ = [
    "ChannelHost",
    "DirectHost",
    "Fds",
    "Host",
    "HostError",
    "Operations",
    "drop_privileges",
    "name_of",
    "run_privileged",
    "serve",
]
