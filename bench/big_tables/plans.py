"""What PostgreSQL did for each statement, told by itself while the real code runs.

``auto_explain`` sends the plan of each statement, as it was run, to who ran it. So no
statement is written a second time, and each has the parameters that it has in life.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from ckan import model

from bench.big_tables.fill import BIG
from ckanext.webhooks.model.base import close_kept

# Timing each row would take longer than reading it.
_EXPLAIN = """
LOAD 'auto_explain';
SET auto_explain.log_min_duration = 0;
SET auto_explain.log_analyze = on;
SET auto_explain.log_timing = off;
SET auto_explain.log_buffers = on;
SET auto_explain.log_format = json;
SET auto_explain.log_level = notice;
"""
# A statement that reads so much of a table reads it whole, by whatever index.
WHOLE = 0.5
# Of a table that has fewer rows than this, nothing is to be said: to read it whole may be right.
SMALL = 50_000


@dataclass
class Read:
    """How much of the big tables was read.

    :ivar rows: by table, those that were thrown away included
    :ivar pages: of 8 KB, in memory or not, of tables and indexes
    :ivar indexes: by which
    :ivar scanned: the tables that were read without one
    """

    rows: dict[str, int] = field(default_factory=dict)
    pages: int = 0
    indexes: set[str] = field(default_factory=set)
    scanned: set[str] = field(default_factory=set)

    def whole(self, counts: Mapping[str, int]) -> set[str]:
        """Name the tables that were read whole.

        :param counts: how many rows each has
        """
        most = {table for table, rows in self.rows.items() if rows > WHOLE * counts[table]}
        return {table for table in self.scanned | most if counts[table] >= SMALL}

    def add(self, other: Read) -> None:
        for table, rows in other.rows.items():
            self.rows[table] = max(rows, self.rows.get(table, 0))
        self.pages += other.pages
        self.indexes |= other.indexes
        self.scanned |= other.scanned


def read_of(plan: Mapping[str, Any]) -> Read:
    """Say what a plan, in PostgreSQL's JSON, read of the big tables."""
    read = Read(pages=plan.get("Shared Hit Blocks", 0) + plan.get("Shared Read Blocks", 0))
    for node in _nodes(plan):
        if name := node.get("Index Name"):
            read.indexes |= {name} if name.startswith("webhooks_") else set()
        table = node.get("Relation Name")
        if table not in BIG or node["Node Type"] == "ModifyTable":
            continue
        thrown_away = sum(v for k, v in node.items() if k.startswith("Rows Removed by"))
        rows = round((node["Actual Rows"] + thrown_away) * node["Actual Loops"])
        read.rows[table] = read.rows.get(table, 0) + rows
        if node["Node Type"] == "Seq Scan" and node["Actual Loops"]:
            read.scanned.add(table)
    return read


def _nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from _nodes(part)


def _lines(node: Mapping[str, Any], depth: int) -> Iterator[str]:
    index, table = node.get("Index Name"), node.get("Relation Name")
    what = [node["Node Type"], f"using {index}" * bool(index), f"on {table}" * bool(table)]
    thrown_away = sum(v for k, v in node.items() if k.startswith("Rows Removed by"))
    read = f"rows={node['Actual Rows']:g} loops={node['Actual Loops']}"
    read += f" removed={thrown_away:g}" * bool(thrown_away)
    yield f"{'  ' * depth}{' '.join(filter(None, what))} ({read})"
    for name in ("Index Cond", "Recheck Cond", "Filter"):
        if name in node:
            yield f"{'  ' * (depth + 1)}{name}: {' '.join(node[name].split())}"
    for part in node.get("Plans", ()):
        yield from _lines(part, depth + 1)


@dataclass
class Statement:
    """One statement's worst run, by the pages that it read.

    :ivar plan: as it was run, in PostgreSQL's JSON
    """

    text: str
    read: Read
    plan: Mapping[str, Any]

    def lines(self) -> Iterator[str]:
        """Show it with its plan."""
        yield " ".join(self.text.split())
        yield from _lines(self.plan, 1)


class Recorder:
    """Keeps what was read.

    :ivar worst: of each statement that read of the big tables, the run that read most
    """

    def __init__(self) -> None:
        self.worst: dict[str, Statement] = {}

    @contextmanager
    def recording(self) -> Iterator[Recorder]:
        """Have all statements of this process explained."""
        engine = model.meta.engine
        listeners = (("connect", _explain), ("after_cursor_execute", self._take))
        for listener in listeners:
            sa.event.listen(engine, *listener)
        _reconnect(engine)
        try:
            yield self
        finally:
            for listener in listeners:
                sa.event.remove(engine, *listener)
            _reconnect(engine)

    def _take(self, _connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        notices = cursor.connection.notices
        for notice in notices:
            _said, brace, plan = notice.partition("{")
            if "plan:" in _said and brace:
                ran = json.loads(brace + plan)["Plan"]
                read = read_of(ran)
                known = self.worst.get(statement)
                if read.rows and (known is None or read.pages > known.read.pages):
                    self.worst[statement] = Statement(statement, read, ran)
        notices.clear()


def _explain(connection: Any, _record: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(_EXPLAIN)
    connection.commit()


def _reconnect(engine: Any) -> None:
    model.Session.remove()
    close_kept()
    engine.dispose()
