# SPDX-License-Identifier: Apache-2.0
"""Memory stays flat: what flows through the service is larger than what its process may hold.

CUMULET_TEST_IMAGE_MIB=4096 pushes 4 GiB instead of a size that fits an ordinary run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

LIMIT_MIB = 300
MIB = int(os.environ.get("CUMULET_TEST_IMAGE_MIB", "320"))


@pytest.mark.timeout(900 + MIB)
def test_an_image_larger_than_the_process(tmp_path: Path) -> None:
    child = [sys.executable, "-m", "tests.services.image.streaming", str(tmp_path), str(MIB)]
    root = Path(__file__).parents[3]
    done = subprocess.run(child, capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < LIMIT_MIB < MIB
    assert sum(path.stat().st_size for path in tmp_path.rglob("data-*")) == 0
