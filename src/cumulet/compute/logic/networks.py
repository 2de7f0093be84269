# SPDX-License-Identifier: Apache-2.0
"""Which NICs a new server gets, decided and checked before anything is written.

What comes out are slots: a network, and either the user's port or the id that
our port will have. Nothing is made here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cumulet.compute.logic import Compute
from cumulet.compute.sagas.params import NetworkSlot
from cumulet.kernel import ids
from cumulet.kernel.context import Context
from cumulet.kernel.errors import Conflict, Fault, Forbidden, Invalid, NotFound

if TYPE_CHECKING:
    from cumulet.client.network import Network, Port

Groups = list[dict[str, str]]
"""Security groups as [{id, name}]."""
EXTERNAL = "network:attach_external_network"


async def plan_slots(
    compute: Compute,
    context: Context,
    wanted: str | Sequence[Mapping[str, Any]],
    *,
    count: int,
    allows: Callable[[str], bool],
) -> tuple[list[NetworkSlot], list[Port]]:
    """The NICs of one server: ``wanted`` is ``any``, ``auto``, ``none`` or a list of {port | uuid, fixed_ip, tag}.

    New port ids are those of the first server; `renewed` makes those of the
    others. Also returns the user's ports. Raises Invalid, Conflict or Forbidden
    in the published wording.
    """
    if wanted == "none":
        return [], []
    if isinstance(wanted, str) or not wanted:
        return await _only_network(compute, context, automatic=wanted == "auto"), []
    slots: list[NetworkSlot] = []
    ports: list[Port] = []
    for one in wanted:
        port_id, network_id, fixed_ip = one.get("port"), one.get("uuid"), one.get("fixed_ip")
        if port_id is not None:
            if fixed_ip is not None:
                raise Invalid(
                    f"Specified Fixed IP '{fixed_ip}' cannot be used with port '{port_id}': "
                    "the two cannot be specified together."
                )
            if count > 1:
                raise Invalid(
                    "Failed to launch instances: Unable to launch multiple instances with a single configured port "
                    "ID. Please launch your instance one by one with different ports."
                )
            port = await usable_port(compute, port_id)
            if any(port.id == other.id for other in ports):
                raise Conflict(f"Port {port_id} is still in use.", kind="PortInUse")
            ports.append(port)
            slots.append(NetworkSlot(port.network_id, port_id=port.id, tag=one.get("tag")))
        elif network_id is None:
            raise Invalid("Bad network format: missing uuid")
        else:
            if fixed_ip is not None and count > 1:
                raise Invalid(
                    "Failed to launch instances: max_count cannot be greater than 1 if an fixed_ip is specified."
                )
            await usable_network(compute, network_id, allows)
            if fixed_ip is not None:
                await _check_free(compute, network_id, fixed_ip)
            slots.append(NetworkSlot(network_id, new_port_id=ids.new_uuid(), fixed_ip=fixed_ip, tag=one.get("tag")))
    return slots, ports


def renewed(slots: Sequence[NetworkSlot]) -> list[NetworkSlot]:
    """The same NICs for another server: new ports get new ids."""
    return [
        NetworkSlot(slot.network_id, new_port_id=ids.new_uuid(), tag=slot.tag) if slot.new_port_id else slot
        for slot in slots
    ]


async def usable_port(compute: Compute, port_id: str) -> Port:
    """The user's port if a server may take it."""
    try:
        port = await compute.network.port(port_id)
    except NotFound:
        raise Invalid(f"Port id {port_id} could not be found.", kind="PortNotFound") from None
    if port.device_id:
        raise Conflict(f"Port {port_id} is still in use.", kind="PortInUse")
    if not port.fixed_ips:
        raise Invalid(f"Port {port_id} requires a FixedIP in order to be used.", kind="PortRequiresFixedIP")
    return port


async def usable_network(compute: Compute, network_id: str, allows: Callable[[str], bool]) -> Network:
    """The network if a server of the caller's may have a NIC there."""
    if not ids.is_uuid(network_id):
        raise Invalid(f"Bad networks format: network uuid is not in proper format ({network_id[:80]})")
    try:
        network = await compute.network.network(network_id)
    except NotFound:
        raise Invalid(f"Network {network_id} could not be found.", kind="NetworkNotFound") from None
    if not network.subnets:
        raise Invalid(
            f"Network {network_id} requires a subnet in order to boot instances on.", kind="NetworkRequiresSubnet"
        )
    if network.external and not network.shared and not allows(EXTERNAL):
        raise Forbidden(
            f"It is not allowed to create an interface on external network {network_id}",
            kind="ExternalNetworkAttachForbidden",
        )
    return network


async def _check_free(compute: Compute, network_id: str, address: str) -> None:
    for port in await compute.network.ports(network_id=network_id, as_service=True):
        if any(fixed["ip_address"] == address for fixed in port.fixed_ips):
            raise Invalid(
                f"Fixed IP address {address} is already in use on instance {port.device_id or 'unknown'}.",
                kind="FixedIpAlreadyInUse",
            )


async def _only_network(compute: Compute, context: Context, *, automatic: bool) -> list[NetworkSlot]:
    """The NIC of a server that names no network: the project's only one, or one made for it."""
    visible = await compute.network.networks()
    usable = [
        one for one in visible
        if one.shared or (one.project_id == context.project_id and not one.external)
    ]  # fmt: skip
    usable = [one for one in usable if one.subnets]
    if len(usable) > 1:
        raise Conflict(
            "More than one possible network found. Specify network ID(s) to select which one(s) to connect to.",
            kind="NetworkAmbiguous",
        )
    if usable:
        return [NetworkSlot(usable[0].id, new_port_id=ids.new_uuid())]
    if not automatic:
        return []
    try:
        network_id = await compute.network.auto_allocated_topology(context.project_id or "")
    except Fault:
        raise Invalid(
            f"Unable to automatically allocate a network for project {context.project_id}",
            kind="UnableToAutoAllocateNetwork",
        ) from None
    return [NetworkSlot(network_id, new_port_id=ids.new_uuid())]


# ---- security groups


async def resolve_groups(compute: Compute, context: Context, wanted: Sequence[str]) -> Groups:
    """Security groups by name or id; raises Invalid for one that is not there and Conflict for two of a name."""
    if not wanted:
        return []
    known = await compute.network.security_groups(project_id=context.project_id or "")
    found: Groups = []
    for name in dict.fromkeys(wanted):
        matches = [group for group in known if group.id == name] or [group for group in known if group.name == name]
        if not matches:
            raise Invalid(f"Security group {name} not found.", kind="SecurityGroupNotFound")
        if len(matches) > 1:
            raise Conflict(
                f"Multiple security groups found matching '{name}'. Use an ID to be more specific.",
                kind="NoUniqueMatch",
            )
        found.append({"id": matches[0].id, "name": matches[0].name})
    return found


async def names_of(compute: Compute, context: Context, group_ids: Sequence[str]) -> Groups:
    """The names of security groups that ports of the user's bring along."""
    if not group_ids:
        return []
    visible = await compute.network.security_groups(project_id=context.project_id or "")
    known = {group.id: group.name for group in visible}
    return [{"id": one, "name": known.get(one, one)} for one in dict.fromkeys(group_ids)]
