# SPDX-License-Identifier: Apache-2.0
"""The bridge driver with real packets: namespaces stand for the machine, its uplink and the guests."""
