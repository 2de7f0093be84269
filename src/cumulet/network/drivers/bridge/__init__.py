# SPDX-License-Identifier: Apache-2.0
"""Real packets on one Linux host: kernel bridges, vxlan, namespaces, nftables, dnsmasq.

``driver`` is the unprivileged half, ``operations`` what the privileged parent
does for it (``OPERATIONS`` is the allow-list): ``networks``, ``groups``,
``ports`` and ``router`` carry out plans, ``filters`` and ``rules`` hold the
packet filters, ``dhcp`` dnsmasq, ``links`` links, addresses and routes,
``naming`` the names and checks of values; ``metadata`` serves 169.254.169.254,
unprivileged again.
Invariant: addresses of guests, tenants and the public network live only on
bridges and in namespaces made here, and no packet of theirs is ever routed by
the host.
"""

_MODULE = "cumulet.network.drivers.bridge.operations"

OPERATIONS: dict[str, str] = {
    f"{_MODULE}:{function}": f"{_MODULE}:{function}"
    for function in (
        "prepare",
        "observe",
        "ensure_network",
        "drop_network",
        "open_metadata",
        "ensure_group",
        "drop_group",
        "ensure_port",
        "drop_port",
        "ensure_router",
        "drop_router",
        "purge",
    )
}
