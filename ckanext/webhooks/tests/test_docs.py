"""The documentation is whole: it builds, its links lead somewhere, and it says what is so."""

from __future__ import annotations

import configparser
import importlib.util
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import pytest
import yaml

from .blocks import DOCS, PAGES, READ, ROOT, RUN, blocks

HERE = Path(__file__).parents[1]
DECLARATION = ROOT / "ckanext" / "webhooks" / "config_declaration.yaml"
SCHEMA = json.loads((DOCS / "payload.schema.json").read_text())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, as bin/docs builds it."""
    site = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    done = subprocess.run(
        [*command, "--config-file", ROOT / ".mkdocs.yml", "--site-dir", site],
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return site


@pytest.mark.acceptance
def test_the_site_is_built_without_a_warning(built):
    assert (built / "index.html").exists()


@pytest.mark.acceptance
def test_a_built_page_takes_nothing_from_another_server(built):
    fetched: set[str] = set()

    class Page(HTMLParser):
        def handle_starttag(self, tag, attrs):
            named = dict(attrs)
            if tag != "a" and named.get("rel") != "canonical":
                fetched.update(named[key] for key in ("src", "href", "data") if named.get(key))

    for page in built.rglob("*.html"):
        Page().feed(page.read_text())
    for style in built.rglob("*.css"):
        fetched.update(re.findall(r"url\(\"?'?([^)\"']*)", style.read_text()))
    assert fetched
    assert [url for url in fetched if re.match(r"(\w+:)?//", url)] == []


def test_the_reference_is_what_the_code_says():
    made = _reference().pages()
    assert {page.name for page in (DOCS / "reference").iterdir()} == set(made)
    for name, text in made.items():
        assert (DOCS / "reference" / name).read_text() == text, f"run bin/docs: {name} is old"


def test_no_description_ends_within_a_sentence():
    for name, text in _reference().pages().items():
        without_examples = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
        for said in without_examples.strip().split("\n\n"):
            is_prose = re.match(r"(?![#|`-]|<!--|\*\*Gives|    )\S", said)
            assert not is_prose or said.endswith((".", ".*", ":")), (name, said)


def _reference():
    spec = importlib.util.spec_from_file_location("reference", DOCS / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_block_is_run_or_says_why_not():
    for block in blocks():
        assert block.language in RUN + READ or block.reason or block.run_by, block
        assert not block.run_by or (HERE / block.run_by).exists(), block


def test_settings_are_settings():
    declared = yaml.safe_load(DECLARATION.read_text())["groups"][0]["options"]
    known = {option["key"] for option in declared}
    for block in blocks():
        if block.language == "ini" and not block.reason and not block.run_by:
            parser = configparser.ConfigParser(interpolation=None)
            parser.read_string(f"[app:main]\n{block.source}")
            named = set(parser["app:main"])
            assert named, block
            assert {key for key in named if "webhooks" in key} <= known, block


def test_json_is_json_and_bodies_are_what_the_schema_says():
    for block in blocks():
        if block.language == "json" and not block.reason:
            said = json.loads(block.source)
            if "payload" in block.page:
                jsonschema.validate(said, {**SCHEMA, "$defs": _partly(SCHEMA["$defs"])})


def _partly(definitions):
    """What the page shows of a dataset is a part of it."""
    return {**definitions, "dataset": {}, "resource": {}}


def test_every_option_that_a_page_names_is_there():
    declared = yaml.safe_load(DECLARATION.read_text())["groups"][0]["options"]
    known = {option["key"].rpartition(".")[2] for option in declared}
    for page in PAGES:
        named = re.findall(r"\bckanext\.webhooks\.(\w+)(?: =|`)", page.read_text())
        assert set(named) <= known, page


def test_every_action_that_a_page_names_is_there():
    from ..logic import action

    for page in PAGES:
        named = set(re.findall(r"\b(webhook_[a-z_]+[a-z])\b(?=[`(])", page.read_text()))
        assert named <= set(action.actions()) | {"webhook_id"}, page


def test_every_command_that_a_page_names_is_there():
    for page in PAGES:
        named = set(re.findall(r"(?<![\w/])bin/[a-z][\w./-]*\w", page.read_text()))
        assert {name for name in named if not (ROOT / name).exists()} == set(), page


def test_the_readme_links_to_what_is_there():
    text = (ROOT / "README.md").read_text()
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if not link.startswith("http"):
            path, _, anchor = link.partition("#")
            page = ROOT / path if path else ROOT / "README.md"
            assert page.exists(), link
            assert not anchor or anchor in _anchors(page), link


def _anchors(page: Path) -> set[str]:
    """Name a page's headings as GitHub does."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
