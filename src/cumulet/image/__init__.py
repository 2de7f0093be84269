# SPDX-License-Identifier: Apache-2.0
"""The image service: disk images, who may see them, and their bytes.

Owns image records, members, tags, properties, import tasks and the data in its
store. Does not own where images are cached (compute) or written to volumes.
Words of its own: `store` (where the bytes are).
"""
