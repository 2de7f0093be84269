# SPDX-License-Identifier: Apache-2.0
"""`python -m cumulet.cli`: the command without its script."""

from __future__ import annotations

from cumulet.cli import main

if __name__ == "__main__":
    main(prog_name="cumulet")
