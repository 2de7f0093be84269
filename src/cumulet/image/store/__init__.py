# SPDX-License-Identifier: Apache-2.0
"""Where image bytes live: a small Protocol and its back ends."""
