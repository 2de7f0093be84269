# SPDX-License-Identifier: Apache-2.0
"""The network service: networks, subnets, ports, routers, floating IPs and security groups (Neutron's part).

Owns addresses, bindings and what each host must have to make them true; the
agent of a host makes it true through a `NetworkDriver`. Owns no guest: a port
knows its device's id and nothing else about it.

Words of its own: `agent` (one host's reconciler) and `drivers` (data planes).
"""
