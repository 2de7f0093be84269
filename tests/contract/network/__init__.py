# SPDX-License-Identifier: Apache-2.0
"""What the network API answers, over HTTP."""
