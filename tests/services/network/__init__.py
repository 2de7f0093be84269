# SPDX-License-Identifier: Apache-2.0
"""The logic and the agent of network."""
