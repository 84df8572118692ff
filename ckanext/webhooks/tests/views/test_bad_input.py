"""What users and endpoints write is text on every page, and nonsense is answered in words."""

from __future__ import annotations

import pytest
from ckan.tests import factories

from ..callers import call, create, execute, join, stored
from ..logic.test_deliveries import ENDED, end, tell, write

pytestmark = pytest.mark.usefixtures("webhooks_db")

HOSTILE = "</pre>\"'><img src=x onerror=alert(1)><script>alert('x')</script>"
ADMINISTRATION = "/ckan-admin/webhooks"


def is_text(page) -> bool:
    return "<img src=x" not in page.body and "<script>alert" not in page.body


@pytest.fixture
def hostile(user) -> str:
    """A webhook that says what it should not, wherever its owner or its endpoint has a say."""
    hook = create(user, description=HOSTILE, headers={"X-Key": "k"}, filters={"tag": [HOSTILE]})
    execute("UPDATE webhooks SET address = :address", address=f"http://a.example.com/{HOSTILE}")
    return hook


def pages(hook: str) -> list[str]:
    of_one = ("", "/edit", "/secret", "/delete", "/replay")
    return ["/dashboard/webhooks", *(f"/webhook/{hook}{page}" for page in of_one)]


def test_what_an_owner_writes_is_text(owner, sysadmin, user, hostile):
    execute("UPDATE webhooks SET failing_since = '2026-11-24'")
    for path in pages(hostile):
        assert is_text(owner.get(path)), path
    for query in ({}, {"host": "a.example.com"}):
        assert is_text(sysadmin.get(ADMINISTRATION, **query))
        assert is_text(sysadmin.get(f"{ADMINISTRATION}/disable", host="a.example.com"))


def test_what_an_endpoint_answers_is_text(owner, user, hostile):
    (number,) = write(hostile, **{**ENDED, "status": "'failed'"})
    execute("UPDATE webhooks_delivery SET reason = :said", said=HOSTILE)
    execute(
        "INSERT INTO webhooks_attempt (delivery_id, number, sent_at, duration, http_status, error,"
        " answer, dialled) VALUES (:id, 1, now(), 0.1, 500, :said, :said, :said)",
        id=number,
        said=HOSTILE,
    )
    execute("UPDATE webhooks SET state = 'disabled', state_reason = :said", said=HOSTILE)
    for path in (*pages(hostile), f"/webhook/delivery/{number}"):
        assert is_text(owner.get(path)), path


def test_what_a_dataset_says_is_text(visit, owner, user, hostile):
    execute("UPDATE webhooks SET filters = '{}'")
    organization = factories.Organization(title=HOSTILE)
    join(organization, user, "editor")
    dataset = factories.Dataset(
        title=HOSTILE, notes=HOSTILE, owner_org=organization["id"], resources=[{"name": HOSTILE}]
    )
    tell()
    end(answer=HOSTILE)
    for row in stored("webhooks_delivery"):
        assert is_text(owner.get(f"/webhook/delivery/{row.id}"))
        answer = owner.get(f"/webhook/delivery/{row.id}/body")
        assert answer.headers["Content-Type"].startswith("application/json")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert is_text(owner.get(f"/dataset/webhooks/{dataset['name']}"))


@pytest.mark.parametrize(
    ("format_", "type_"),
    [
        ("classic", "application/json"),
        ("standard", "application/json"),
        ("cloudevents", "application/cloudevents+json"),
    ],
)
def test_a_body_is_downloaded_as_what_it_is(owner, user, format_, type_):
    create(user, format=format_)
    factories.Dataset(title=HOSTILE)
    tell()
    (row,) = stored("webhooks_delivery")
    answer = owner.get(f"/webhook/delivery/{row.id}/body")
    assert answer.headers["Content-Type"].split(";")[0] == type_
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    disposition = answer.headers["Content-Disposition"]
    assert disposition == f"attachment; filename=delivery-{row.id}.json"


def test_what_an_address_of_a_page_says_is_text(owner, sysadmin, hostile):
    """Also where it is not found, or refused."""
    said = HOSTILE.replace("/", "")
    hook = hostile
    sysadmin_pages = [
        (ADMINISTRATION, 200, {"host": said}),
        (ADMINISTRATION, 200, {"user": said}),
        (ADMINISTRATION, 200, {"state": said}),
        (f"{ADMINISTRATION}/disable", 200, {"host": said}),
        (f"/webhook/{said}", 404, {}),
        (f"/dataset/webhooks/{said}", 404, {}),
    ]
    for path, status, query in sysadmin_pages:
        assert is_text(sysadmin.get(path, status, **query)), path
    for name in ("status", "topic", "since", "until", "cursor"):
        page = owner.get(f"/webhook/{hook}", **{name: said})
        assert is_text(page) and f'id="error-{name}"' in page.body, name
    assert is_text(owner.get(f"/webhook/{said}", 404))


def test_what_a_form_says_is_text_when_it_is_shown_again(owner, hostile):
    texts = ("address", "description", "format", "max_rate", "headers", "topic")
    fields = dict.fromkeys(texts, HOSTILE)
    facets = {f"filter-{name}": HOSTILE for name in ("organization", "group", "tag", "type")}
    for path in ("/webhook/new", f"/webhook/{hostile}/edit"):
        assert is_text(owner.post(path, 200, **fields, **facets))
        assert is_text(owner.post(path, 200, **{**fields, "headers": ""}, **facets))
    page = owner.post(f"/webhook/{hostile}/replay", 200, since=HOSTILE, cursor=HOSTILE)
    assert is_text(page) and 'id="error-since"' in page.body
    assert (
        owner.post("/webhook/example", 200, address=HOSTILE)
        .headers["Content-Type"]
        .startswith("text/plain")
    )


def test_why_a_button_did_nothing_is_text(owner, user, hostile):
    # Its address is not one that could be registered: that is said, with what it is.
    call(user, "webhook_patch", id=hostile, address="http://a.example.com", state="disabled")
    execute("UPDATE webhooks SET address = :address", address=f"http://10.0.0.1/{HOSTILE}")
    page = owner.submit(f"/webhook/{hostile}/switch", state="active")
    assert is_text(page)


@pytest.mark.parametrize(
    "nonsense", ["x", "-1", "0", "9" * 40, "1.5", "\N{ARABIC-INDIC DIGIT ONE}", ""]
)
def test_nonsense_cursors_break_no_page(owner, sysadmin, user, nonsense):
    hook = create(user)
    factories.Dataset(name="air")
    owner.get(f"/webhook/{hook}", cursor=nonsense)
    owner.get("/dashboard/webhooks", page=nonsense)
    sysadmin.get("/dataset/webhooks/air", before=nonsense)
    sysadmin.get(ADMINISTRATION, offset=nonsense, hours=nonsense)
    if nonsense in ("x", "-1", "9" * 40, "1.5"):
        owner.post(f"/webhook/{hook}/replay", 200, since="2020-01-01", cursor=nonsense)
