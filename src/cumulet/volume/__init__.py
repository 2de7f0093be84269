# SPDX-License-Identifier: Apache-2.0
"""The volume service: block devices that outlive servers, their snapshots, and who is attached to them.

Owns volumes, snapshots, attachments, volume types, quotas, and the back ends'
capacity. Does not own how a guest opens a disk (compute) or where images are.
Words of its own: `scheduler` (which back end gets a volume).
"""
