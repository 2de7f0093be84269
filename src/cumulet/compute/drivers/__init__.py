# SPDX-License-Identifier: Apache-2.0
"""Hypervisor drivers: the only code that knows what runs a guest.

``model`` is the Protocol, ``libvirt`` and ``simulated`` keep it; both pass
``tests/conformance/test_hypervisor.py``. ``libvirtd`` (run by the privileged
parent) gives the libvirt driver a daemon; ``configdrive`` makes config drives.
"""
