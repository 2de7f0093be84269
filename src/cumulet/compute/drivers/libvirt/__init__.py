# SPDX-License-Identifier: Apache-2.0
"""The hypervisor driver for real guests: libvirt and QEMU, with KVM or with TCG.

Import this package only on a host that uses it: it loads libvirt and lxml.
"""

from cumulet.compute.drivers.libvirt.driver import LibvirtHypervisor

__all__ = ["LibvirtHypervisor"]
