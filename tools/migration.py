# SPDX-License-Identifier: Apache-2.0
"""Writes the next migration of a service: what its models have and its migrations do not.

usage: .venv/bin/python tools/migration.py SERVICE "what changes"
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic.autogenerate import produce_migrations, render_python_code
from alembic.migration import MigrationContext

from cumulet.kernel.db import Json
from cumulet.kernel.db.migrate import render
from cumulet.kernel.db.schema import versions_of

HEAD = '''# SPDX-License-Identifier: Apache-2.0
"""{title}"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op


def upgrade() -> None:
    """Bring the schema from the version before to this one."""
'''


def _type(kind: str, item: Any, context: Any) -> str | bool:
    """A migration is frozen: it names SQL types, never our own classes."""
    return "sa.Text()" if kind == "type" and isinstance(item, Json) else False


def main(service: str, title: str) -> int:
    models = importlib.import_module(f"cumulet.{service}.models")
    folder = Path(models.__file__ or "").parent
    folder = (folder if folder.name == service else folder.parent) / "migrations"
    folder.mkdir(exist_ok=True)
    known = versions_of(folder)
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        for version in known:
            for statement in render(folder, version, "sqlite"):
                connection.exec_driver_sql(statement)
        context = MigrationContext.configure(connection, opts={"compare_type": False, "render_item": _type})
        made = produce_migrations(context, models.METADATA)
        if made.upgrade_ops is None or made.upgrade_ops.is_empty():
            print(f"{service}: nothing to do")
            return 0
        code = render_python_code(made.upgrade_ops, render_item=_type)
    version = f"{len(known) + 1:04d}"
    body = "\n".join(f"    {line}".rstrip() for line in code.splitlines() if not line.strip().startswith("# ###"))
    (folder / f"{version}.py").write_text(HEAD.format(title=title) + body.replace("        op.", "    op.") + "\n")
    print(folder / f"{version}.py")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
