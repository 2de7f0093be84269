# SPDX-License-Identifier: Apache-2.0
"""Files that several processes write at the same time."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cumulet.assembly.place import Place
from cumulet.kernel.files import write_whole

WRITERS = 4


def together(program: str, folder: Path) -> None:
    """Run a program in several processes at once; each gets the folder and its own number."""
    argv = [sys.executable, "-c", program, str(folder)]
    running = [subprocess.Popen([*argv, str(number)]) for number in range(WRITERS)]
    assert [one.wait(60) for one in running] == [0] * WRITERS


def test_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from cumulet.kernel.files import write_whole\n"
        "for _ in range(300): write_whole(Path(sys.argv[1]) / 'file', sys.argv[2] * 100_000)"
    )
    together(program, tmp_path)
    assert (tmp_path / "file").read_text() in {str(number) * 100_000 for number in range(WRITERS)}
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_what_processes_of_one_host_made_is_all_kept(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from cumulet.assembly.place import Place\n"
        "for turn in range(50): Place(Path(sys.argv[1])).write_made({f'{sys.argv[2]}-{turn}': turn})"
    )
    together(program, tmp_path)
    assert len(Place(tmp_path).made()) == WRITERS * 50


def test_who_comes_first_chooses(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from cumulet.kernel.files import chosen_once, write_whole\n"
        "folder = Path(sys.argv[1])\n"
        "told = [chosen_once(folder / f'id-{turn}', lambda: sys.argv[2] * 5_000) for turn in range(100)]\n"
        "write_whole(folder / f'told-{sys.argv[2]}', chr(10).join(told))"
    )
    together(program, tmp_path)
    chosen = {(tmp_path / f"told-{number}").read_text() for number in range(WRITERS)}
    assert chosen == {"\n".join((tmp_path / f"id-{turn}").read_text() for turn in range(100))}
    assert len(list(tmp_path.iterdir())) == 100 + WRITERS


def test_a_file_is_whole_or_what_it_was(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    write_whole(file, b"old", durable=True)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    write_whole(file, "shown", mode=0o644)
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == ("shown", 0o644)
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path / "folder", b"new")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["folder", "secret"]
