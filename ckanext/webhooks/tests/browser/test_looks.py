"""Every page in its states: seen, usable by everybody, and in each language.

The pictures are left in ``.dev/screenshots/2.12`` (or whichever CKAN it is).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import ckanapi
import pytest

from ...model import Kind
from ..test_languages import LANGUAGES, messages, read
from ..test_languages import written as written_in
from . import Browser, missing
from .stage import DATASET, Stage, build, put_aside

pytestmark = [
    pytest.mark.acceptance,
    # Ubuntu has Chromium as a snap alone, which bin/test does not install.
    pytest.mark.skipif(missing() is not None, reason=f"{missing()} is not installed"),
]

RELEASE = ".".join(version("ckan").split(".")[:2])
PICTURES = Path(__file__).parents[4] / ".dev" / "screenshots" / RELEASE
PHONE = 390


def _nothing(page: Browser) -> None:
    pass


@dataclass(frozen=True)
class Look:
    """A page in a state.

    :ivar who: whose page: newcomer (who has no webhook), publisher or operator
    :ivar path: of the stage
    :ivar then: what is done there
    """

    name: str
    who: str
    path: Callable[[Stage], str]
    then: Callable[[Browser], None] = _nothing


def _fill_in_badly(page: Browser) -> None:
    page.type("#field-address", "http://192.168.0.1/internal")
    page.type("#field-max_rate", "many")
    page.type("#filter-type", "dataset")
    page.submit("button[name=save]")


def _replay_badly(page: Browser) -> None:
    page.type("#field-since", "last week")
    page.submit("form[method=post] .form-actions button.btn-primary")


def _of(name: str, page: str = "") -> Callable[[Stage], str]:
    return lambda stage: f"/webhook/{stage.hooks[name]}{page}"


def _delivery(name: str, back: int = 0) -> Callable[[Stage], str]:
    return lambda stage: f"/webhook/delivery/{stage.deliveries[name] - back}"


def _at(path: str) -> Callable[[Stage], str]:
    return lambda stage: path


def _unfold(page: Browser) -> None:
    page.run("document.querySelectorAll('.webhooks details').forEach(e => e.open = true)")


LOOKS = (
    Look("index-empty", "newcomer", _at("/dashboard/webhooks")),
    Look("index", "publisher", _at("/dashboard/webhooks")),
    Look("form-new", "publisher", _at("/webhook/new")),
    Look("form-errors", "publisher", _at("/webhook/new"), _fill_in_badly),
    Look("form-edit", "publisher", _of("healthy", "/edit")),
    Look("secret", "publisher", _of("healthy", "/secret?new=yes")),
    Look("webhook-healthy", "publisher", _of("healthy")),
    Look("webhook-failing", "publisher", _of("failing")),
    Look("webhook-disabled", "publisher", _of("disabled")),
    Look("webhook-busy", "publisher", _of("busy", "?status=failed")),
    Look("webhook-nonsense", "publisher", _of("paced", "?cursor=x&since=soon")),
    Look("delivery", "publisher", _delivery("healthy")),
    Look("delivery-retried", "publisher", _delivery("failing"), _unfold),
    Look("replay", "publisher", _of("healthy", "/replay")),
    Look("replay-errors", "publisher", _of("healthy", "/replay"), _replay_badly),
    Look("delete", "publisher", _of("healthy", "/delete")),
    Look("administration", "operator", _at("/ckan-admin/webhooks?hours=168")),
    Look("administration-host", "operator", _at("/ckan-admin/webhooks?host=search.example.com")),
    Look("disable", "operator", _at("/ckan-admin/webhooks/disable?user=publisher")),
    Look("check", "operator", _at("/ckan-admin/webhooks/check")),
    Look("dataset", "operator", _at(f"/dataset/webhooks/{DATASET['name']}")),
    Look("dataset-empty", "operator", _at("/dataset/webhooks/quiet")),
)


# What is shown while something of each kind is put aside.
ASIDE = (
    Look("administration-aside", "operator", _at("/ckan-admin/webhooks")),
    *(
        Look(
            f"give-up-{kind.value}", "operator", _at(f"/ckan-admin/webhooks/quarantine/{n}/give-up")
        )
        for n, kind in enumerate(Kind, 1)
    ),
)


@pytest.fixture(scope="module")
def people(site, ckan, organization: str, open_as) -> Iterator[dict[str, Browser]]:
    with (
        open_as("newcomer") as newcomer,
        open_as("publisher") as publisher,
        open_as("operator") as operator,
    ):
        ckan.action.user_patch(id="operator", sysadmin=True)
        yield {"newcomer": newcomer, "publisher": publisher, "operator": operator}


@pytest.fixture(scope="module")
def stage(site, ckan, organization: str, people) -> Iterator[Stage]:
    token = ckan.action.api_token_create(user="publisher", name="stage")["token"]
    own = ckanapi.RemoteCKAN(site.url, apikey=token)
    ckan.action.package_create(name="quiet", title="Quiet streets", owner_org=organization)
    built = build(site, ckan, own, organization)
    yield built
    for hook in built.hooks.values():
        own.action.webhook_delete(id=hook)


@pytest.fixture
def aside(site, stage) -> Iterator[None]:
    with put_aside(site, stage):
        yield


@pytest.mark.parametrize("look", LOOKS, ids=lambda look: look.name)
def test_everybody_can_use_a_page(site, people, stage, look):
    _use(site, people, stage, look)


@pytest.mark.parametrize("look", ASIDE, ids=lambda look: look.name)
def test_everybody_can_judge_what_is_put_aside(site, people, stage, aside, look):
    _use(site, people, stage, look)


def _use(site, people, stage, look) -> None:
    page = people[look.who]
    page.open(site.url + look.path(stage))
    look.then(page)
    for suffix, width in (("", 1200), ("-phone", PHONE)):
        _draw(page, f"{look.name}{suffix}", width)
    assert violations(page) == []
    assert page.complaints() == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_english_is_left(site, people, stage, aside, language):
    written = messages(read(written_in(language)))
    theirs = {message.string for message in written.values() if isinstance(message.string, str)}
    # "Filter" is a German word for another thing, too.
    english = {text for ids in written for text in ids} - theirs
    left = {}
    for look in (*LOOKS, *ASIDE):
        page, url = people[look.who], f"{site.url}/{language}{look.path(stage)}"
        is_drawn = look.name in ("index", "form-errors")
        if is_drawn or look.then is not _nothing:
            page.open(url)
            look.then(page)
            if is_drawn:
                _draw(page, f"{look.name}-{language}")
            said = page.run(SAID)
        else:
            # Scripts of ours say nothing of their own: what they say is in the page.
            said = page.run(SAID, url)
        assert said, look.name
        found = [text for text in english if _is_in(text, said)]
        left.update({look.name: found} if found else {})
    assert left == {}


def _draw(page: Browser, name: str, width: int = 1200) -> None:
    """Keep a picture, where bin/screenshots asks for it: to draw one takes as long as a test."""
    if "SCREENSHOTS" in os.environ:
        PICTURES.mkdir(parents=True, exist_ok=True)
        (PICTURES / f"{name}.png").write_bytes(page.picture(width))


# Text and labels of our part of a page; what is code, data or marked as English is not ours.
# Of the page that is shown, or with an address as its argument of one that is fetched, which
# takes a fifth of the time that it takes to show it.
SAID = """
return (async url => {
const fetched = () => fetch(url).then(answer => answer.text())
    .then(text => new DOMParser().parseFromString(text, 'text/html'));
const page = url ? await fetched() : document;
const ours = page.querySelector('.webhooks').cloneNode(true);
ours.querySelectorAll('[lang=en], pre, code, script').forEach(element => element.remove());
const said = [], nodes = document.createTreeWalker(ours, NodeFilter.SHOW_TEXT);
while (nodes.nextNode()) said.push(nodes.currentNode.data.trim());
for (const name of ['aria-label', 'title', 'data-label', 'data-module-done'])
    ours.querySelectorAll(`[${name}]`).forEach(e => said.push(e.getAttribute(name)));
return said.filter(text => text);
})(arguments[0]);
"""


def _is_in(text: str, said: list[str]) -> bool:
    """Tell whether a page says something: a word by itself, or the words between placeholders."""
    parts = [part.strip() for part in re.split(r"\{\w+\}|%\(\w+\)s|%\w", text)]
    parts = [part for part in parts if " " in part or part == text]
    return any(part in one if " " in part else part == one for part in parts for one in said)


def violations(page: Browser) -> list[str]:
    """Say what on our part of a page keeps somebody from using it: by axe-core, what is serious."""
    assert "AXE" in os.environ, "axe-core is missing; bin/test brings it"
    page.run(Path(os.environ["AXE"]).read_text())
    found = page.run("return axe.run(...arguments)", ".webhooks", {"resultTypes": ["violations"]})
    return [
        f"{rule['id']} ({rule['impact']}): {node['html'][:300]}"
        for rule in found["violations"]
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]
