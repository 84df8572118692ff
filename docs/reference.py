"""Writes docs/reference/ from the code. bin/docs runs it; a test holds that it was run.

Pages are committed, so that they can be read, and linked to, where the source is.
"""

from __future__ import annotations

import inspect
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import yaml
from sqlalchemy.dialects import postgresql

import ckanext.webhooks
from ckanext.webhooks import cli, model, topics
from ckanext.webhooks.logic import action
from ckanext.webhooks.views import form, metrics

HERE = Path(__file__).parent
OWNER = "e7495e6a-4a4e-4b4e-8f4e-0a1b2c3d4e5f"
MADE = "<!-- Made from the code by bin/docs: change it there. -->\n"


def pages() -> dict[str, str]:
    """Give the text of each page by its name in docs/reference/."""
    made = {
        "actions": _actions(),
        "cli": _commands(),
        "metrics": _metrics(),
        "options": _options(),
        "payload": _payload(),
        "tables": _tables(),
        "topics": _topics(),
    }
    return {f"{name}.md": MADE + text.rstrip() + "\n" for name, text in made.items()}


def _actions() -> str:
    parts = [
        "# Actions",
        "Called as any of CKAN's: by [ckanapi](https://github.com/ckan/ckanapi), by `POST` (where"
        " they only read, `GET`) to `/api/3/action/NAME`, or by `toolkit.get_action`. Each checks"
        " who asks, and refuses what makes no sense with CKAN's `ValidationError`, which names the"
        " field. Anonymous callers may call none.",
    ]
    for name, function in action.actions().items():
        said = Said(inspect.getdoc(function) or "")
        reads = "\n\n*Reads: `GET` works.*" if getattr(function, "side_effect_free", False) else ""
        parts += [f"## {name}", _linked(said.text) + reads]
        if said.fields("param"):
            rows = (
                (f"`{param}`", said.fields("type").get(param, ""), _linked(text))
                for param, text in said.fields("param").items()
            )
            parts.append(_table(("takes", "type", ""), rows))
        if said.field("returns"):
            parts.append(f"**Gives** ({said.field('rtype')}) {_linked(said.field('returns'))}")
    return _joined(parts)


def _commands() -> str:
    parts = [
        "# Command line",
        "`ckan -c ckan.ini webhooks COMMAND`, or without `-c` where `CKAN_INI` says which. Exit"
        " codes: 0 it went well, 1 what was asked for failed, 2 the command was not understood."
        " [The command line](../command-line.md) shows how they go together.",
    ]
    for name, command in _all_commands(cli.webhooks):
        context = click.Context(command, info_name=f"ckan webhooks {name}")
        usage = " ".join(command.get_usage(context).removeprefix("Usage: ").split())
        parts += [f"## {name}", f"`{usage}`", _linked(inspect.cleandoc(command.help or ""))]
        options = [param.get_help_record(context) for param in command.params]
        rows = [(f"`{record[0]}`", _escaped(record[1])) for record in options if record]
        parts += [_table(("option", ""), rows)] if rows else []
    return _joined(parts)


def _all_commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    """Give a group's commands by what is typed, and those of groups within it."""
    for name, command in group.commands.items():
        yield f"{prefix}{name}", command
        if isinstance(command, click.Group):
            yield from _all_commands(command, f"{prefix}{name} ")


def _metrics() -> str:
    nothing: Any = defaultdict(lambda: defaultdict(float))
    text = "\n".join(metrics._lines(nothing, nothing, nothing, nothing))
    rows = []
    for name, said in re.findall(r"^# HELP (\w+) (.*)$", text, re.M):
        kind = re.search(rf"^# TYPE {name} (\w+)$", text, re.M)
        labels = re.findall(rf"^{name}\{{(.*)}} ", text, re.M)
        assert kind
        rows.append((f"`{name}`", kind[1], " ".join(f"`{label}`" for label in labels), said))
    return _joined(
        [
            "# Metrics",
            "What `/webhooks/metrics` gives to a sysadmin's API token, in Prometheus' text format;"
            " see [Monitor](../monitoring.md#for-prometheus). What is not known is left out.",
            _table(("metric", "kind", "labels", ""), rows),
        ]
    )


def _options() -> str:
    declared = (Path(ckanext.webhooks.__file__).parent / "config_declaration.yaml").read_text()
    parts = ["# Options", "All are of `ckan.ini`; workers read them when they start, as CKAN does."]
    for option in yaml.safe_load(declared)["groups"][0]["options"]:
        default = option["default"]
        shown = "" if default in ("", []) else str(default)
        parts += [
            f"## {option['key']}",
            _table(
                ("default", "example"),
                [(f"`{shown}`" if shown else "none", f"`{option['example']}`")],
            ),
            _linked(option["description"].strip()),
        ]
    return _joined(parts)


def _topics() -> str:
    patterns = {
        "dataset/*": "Everything that happens to datasets.",
        "resource/*": "Everything that happens to resources.",
        "*": "Everything, topics of later versions too.",
    }
    assert set(patterns) == set(topics.PATTERNS)
    rows = ((f"`{name}`", text) for name, text in {**topics.TOPICS, **patterns}.items())
    return _joined(
        [
            "# Topics",
            "What a webhook may be registered for; `webhook_create` takes one or a list of them.",
            _table(("topic", "told when"), rows),
            "A `ping` is sent when somebody asks for it (`webhook_ping`), whatever a webhook is"
            " registered for.",
        ]
    )


def _payload() -> str:
    schema = json.loads((HERE / "payload.schema.json").read_text())
    parts = [
        "# The body",
        "What a request says, in the format that its webhook was registered with. This is"
        " [payload.schema.json](../payload.schema.json) (JSON Schema 2020-12) in words; a test"
        " validates what a running portal sends against it. Keys may be added in later versions,"
        " none is taken away.",
    ]
    for name in ("classic", "standard", "cloudevents", "data"):
        part = schema["$defs"][name]
        parts.append(f"## {part['title']}")
        if name != "data":
            fields = {"topic": ["dataset/update"], "format": name, "address": ""}
            body = json.loads(form.example(fields, "https://data.example.org", OWNER))
            parts.append(f"```json\n{json.dumps(body, indent=2)}\n```")
        rows = (
            (f"`{key}`", "always" if key in part["required"] else "", _described(schema, of))
            for key, of in part["properties"].items()
        )
        parts.append(_table(("key", "", ""), rows))
    return _joined(parts)


def _described(schema: Mapping[str, Any], part: Mapping[str, Any]) -> str:
    if "$ref" in part:
        part = schema["$defs"][part["$ref"].rpartition("/")[2]]
    return str(part["description"])


def _tables() -> str:
    parts = [
        "# Tables",
        "In CKAN's database; `ckan db upgrade -p webhooks` makes and changes them. Read them as you"
        " like, and write to them by the actions: the columns may change with a version.",
    ]
    for table in (
        model.Webhook,
        model.Event,
        model.Delivery,
        model.Attempt,
        model.Served,
        model.Missed,
        model.Right,
        model.Quarantined,
    ):
        said = Said(inspect.getdoc(table) or "")
        meanings = {
            name: text for names, text in said.fields("ivar").items() for name in names.split(", ")
        }
        rows = (
            (
                f"`{column.name}`",
                f"`{column.type.compile(dialect=postgresql.dialect())}`",
                "" if column.nullable else "not null",
                _linked(meanings.get(column.name, "")),
            )
            for column in table.__table__.columns
        )
        parts += [f"## {table.__tablename__}", _linked(said.text)]
        parts.append(_table(("column", "type", "", ""), rows))
    return _joined(parts)


class Said:
    """A docstring in Sphinx' style, taken apart.

    :ivar text: what is before the first field
    """

    def __init__(self, docstring: str) -> None:
        # A role (:func:`…`) may begin a line as well.
        self.text, *rest = re.split(r"^(?=:\w+[^:\n]*:(?!`))", docstring, flags=re.M)
        self.text = self.text.strip()
        self._fields = [_field(part) for part in rest]

    def fields(self, kind: str) -> dict[str, str]:
        """Give the texts of ``:kind name:`` by name."""
        return {name: text for of, name, text in self._fields if of == kind}

    def field(self, kind: str) -> str:
        """Give the text of ``:kind:``, empty where there is none."""
        return self.fields(kind).get("", "")


def _field(part: str) -> tuple[str, str, str]:
    match = re.match(r":(\w+) ?([^:\n]*):\s*(.*)", part, re.S)
    assert match, part
    return match[1], match[2], " ".join(match[3].split())


def _linked(text: str) -> str:
    """Turn reStructuredText's marks into Markdown's."""
    text = re.sub(r":func:`(webhook_\w+)`", r"[`\1`](actions.md#\1)", text)
    text = re.sub(r":\w+:`(?:~?[\w.]+\.)?(\w+)`", r"`\1`", text)
    return text.replace("``", "`")


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(_escaped(cell) for cell in line)} |" for line in lines)


def _escaped(cell: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", " ".join(cell.split()))


def _joined(parts: list[str]) -> str:
    return "\n\n".join(part for part in parts if part)


def write(to: Path = HERE / "reference") -> None:
    """Write the pages that are not what the code says."""
    to.mkdir(exist_ok=True)
    for name, text in pages().items():
        if not (to / name).exists() or (to / name).read_text() != text:
            (to / name).write_text(text)


if __name__ == "__main__":
    write()
