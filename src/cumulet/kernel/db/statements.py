# SPDX-License-Identifier: Apache-2.0
"""Statements compiled once: SQLAlchemy makes the SQL text, the driver runs it.

SQLAlchemy's own execution layer costs a multiple of a whole request; its
compiler with its cache key costs next to nothing after the first time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Float
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.compiler import SQLCompiler

Row = dict[str, Any]


class Prepared:
    """One compiled statement: its SQL, how to bind, how to read."""

    def __init__(self, compiled: SQLCompiler, dialect: Dialect) -> None:
        self.compiled = compiled
        self._expands = bool(compiled.post_compile_params or compiled.literal_execute_params)
        self._binders: Mapping[str, Callable[[Any], Any]] = dict(compiled._bind_processors)  # type: ignore[arg-type]
        self._readers: list[tuple[str, Callable[[Any], Any] | None]] = [
            (str(column.keyname), None if isinstance(column.type, Float) else _reader_of(column.type, dialect))
            for column in compiled._result_columns
        ]  # both drivers give floats as they are
        self._plain = [name for name, _ in self._readers] if all(read is None for _, read in self._readers) else None

    def bind(self, params: Mapping[str, Any], extracted: Any) -> tuple[str, list[Any]]:
        """The SQL text and its positional values."""
        values = self.compiled.construct_params(dict(params), extracted_parameters=extracted)
        if self._expands:
            state = self.compiled._process_parameters_for_postcompile(values)
            binders: Mapping[str, Any] = {**self._binders, **state.processors}
            order, sql = state.positiontup, state.statement
            values = {**values, **state.additional_parameters} if state.additional_parameters else values
        else:
            binders, order, sql = self._binders, self.compiled.positiontup, self.compiled.string
        ready = []
        for name in order or ():
            binder = binders.get(name)
            ready.append(binder(values[name]) if binder is not None else values[name])
        return sql, ready

    def rows(self, fetched: Sequence[Sequence[Any]]) -> list[Row]:
        if self._plain is not None:
            names = self._plain
            return [dict(zip(names, row, strict=True)) for row in fetched]
        readers = self._readers
        return [
            {name: read(value) if read is not None else value for (name, read), value in zip(readers, row, strict=True)}
            for row in fetched
        ]


def _reader_of(type_: Any, dialect: Dialect) -> Callable[[Any], Any] | None:
    """What turns a driver's value into ours; None where it is the same."""
    reader: Callable[[Any], Any] | None = type_._cached_result_processor(dialect, None)
    return reader


class Compiler:
    """The statements of one dialect, compiled lazily and kept (the 2,000 last used)."""

    def __init__(self, dialect: Dialect, size: int = 2000) -> None:
        self.dialect = dialect
        self._size = size
        self._known: OrderedDict[Any, Prepared] = OrderedDict()

    def prepare(self, statement: Any, params: Mapping[str, Any]) -> tuple[Prepared, str, list[Any]]:
        """The prepared statement, its SQL text and its positional values."""
        cache_key = statement._generate_cache_key()
        columns = sorted(params) if getattr(statement, "is_insert", False) and params else None
        key = (cache_key.key, tuple(columns or ())) if cache_key is not None else None
        prepared = self._known.get(key) if key is not None else None
        if prepared is None:
            prepared = Prepared(
                statement._compiler(self.dialect, cache_key=cache_key, column_keys=columns), self.dialect
            )
            if key is not None:
                self._known[key] = prepared
                if len(self._known) > self._size:
                    self._known.popitem(last=False)
        elif key is not None:
            self._known.move_to_end(key)
        sql, values = prepared.bind(params, cache_key.bindparams if cache_key is not None else None)
        return prepared, sql, values
