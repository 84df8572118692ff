"""What the README shows works and is whole. What needs a site is in test_path.py."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import yaml

from .. import encryption
from ..deliver import signing
from ..logic import action

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text()
DECLARATION = ROOT / "ckanext" / "webhooks" / "config_declaration.yaml"


def blocks(language: str) -> list[str]:
    """Give the README's code blocks in a language."""
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", README, re.M | re.S)


def test_the_receiver_takes_what_is_signed_and_nothing_else():
    (source,) = (block for block in blocks("python") if "flask" in block)
    secret = encryption.new_secret()
    names: dict = {"__name__": "readme"}
    exec(source.replace("whsec_…", secret), names)
    client = names["app"].test_client()
    body = json.dumps({"topic": "dataset/create", "entity": {"id": "x"}, "sequence": 1}).encode()
    headers = signing.headers("event", int(time.time()), body, [secret])
    assert client.post("/callback", data=body, headers=headers).status_code == 204
    forged = signing.headers("event", int(time.time()), body, [encryption.new_secret()])
    assert client.post("/callback", data=body, headers=forged).status_code == 500


def test_the_table_of_options_is_the_declaration():
    options = yaml.safe_load(DECLARATION.read_text())["groups"][0]["options"]
    rows = dict(re.findall(r"^\| `(ckanext\.webhooks\.\w+)` \| ([^|]*) \|", README, re.M))
    assert list(rows) == [o["key"] for o in options]
    for option in options:
        if option["default"] not in ("", []):
            assert rows[option["key"]].strip("` ") == str(option["default"])


def test_every_action_is_named():
    named = set(re.findall(r"`(webhook_\w+)`", README))
    assert named == set(action.actions())


def test_every_file_it_names_is_there():
    named = set(re.findall(r"\bbin/[\w./-]+\b", README)) | {"CHANGELOG.md", "LICENSE"}
    assert {name for name in named if not (ROOT / name).exists()} == set()
