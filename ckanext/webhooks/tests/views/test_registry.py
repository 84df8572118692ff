"""My webhooks, the form, the secret, on and off, and away."""

from __future__ import annotations

import json
import re

import pytest
from ckan.tests import factories

from ..callers import ADDRESS, call, create, execute, stored
from ..logic.test_deliveries import ENDED, write

pytestmark = pytest.mark.usefixtures("webhooks_db")

HOSTILE = "\"><script>alert('x')</script>"
FILLED = {"topic": ["dataset/create", "resource/*"], "address": ADDRESS, "format": "standard"}
OF_ONE = ("", "/edit", "/secret", "/delete", "/replay")
BUTTONS = ("edit", "rotate", "switch", "delete", "ping", "replay")


def example(page) -> dict:
    (text,) = re.findall('id="webhook-example"[^>]*>(.*?)</pre>', page.body, re.S)
    return json.loads(text.replace("&#34;", '"'))


class TestWho:
    def test_who_is_not_logged_in_is_sent_to_do_so(self, visit, user):
        hook = create(user)
        nobody = visit()
        for path in (
            "/dashboard/webhooks",
            "/webhook/new",
            *(f"/webhook/{hook}{p}" for p in OF_ONE),
        ):
            assert "/user/login" in nobody.get(path, 302).headers["Location"]
        before = stored()
        for button in BUTTONS:
            assert "/user/login" in nobody.post(f"/webhook/{hook}/{button}").headers["Location"]
        assert stored() == before

    def test_others_see_and_change_nothing(self, visit, user, sysadmin):
        hook = create(user, description="mine alone")
        other = visit(factories.User())
        before = stored()
        for path in OF_ONE:
            other.get(f"/webhook/{hook}{path}", 404)
            other.get(f"/webhook/no-such{path}", 404)
            sysadmin.get(f"/webhook/no-such{path}", 404)
            sysadmin.get(f"/webhook/{hook}{path}")
        for button in BUTTONS:
            other.post(f"/webhook/{hook}/{button}", 404)
        assert stored() == before
        assert "mine alone" not in other.get("/dashboard/webhooks").body

    def test_what_cannot_be_an_id_is_not_found(self, owner, sysadmin):
        owner.get("/webhook/a%00b", 404)
        sysadmin.get("/webhook/a%00b/edit", 404)

    @pytest.mark.ckan_config("ckanext.webhooks.minimum_auth", "sysadmin")
    def test_who_may_not_create_has_no_form(self, owner):
        owner.get("/webhook/new", 403)
        owner.post("/webhook/new", 403, **FILLED)
        assert "/webhook/new" not in owner.get("/dashboard/webhooks").body


class TestIndex:
    def test_it_is_a_tab_of_the_dashboard(self, owner):
        assert "/dashboard/webhooks" in owner.get("/dashboard/datasets").body
        assert "You have no webhooks" in owner.get("/dashboard/webhooks").body

    def test_what_fails_is_first_and_says_so(self, owner, user):
        ill = create(user, address="http://ill.example.com")
        well = create(user, address="http://well.example.com", description="for the map")
        execute(
            "UPDATE webhooks SET failing_since = clock_timestamp(), last_failure_at = '2026-11-24'"
            " WHERE id = :id",
            id=ill,
        )
        write(well, 3, **ENDED)
        write(well, 1, **{**ENDED, "status": "'failed'"})
        page = owner.get("/dashboard/webhooks").body
        assert page.index("ill.example.com") < page.index("well.example.com")
        assert "failing" in page and "2026-11-24" in page and "for the map" in page
        assert "75 %" in page and "3 delivered, 1 failed" in page

    def test_many_come_in_pages(self, owner, user):
        for n in range(26):
            create(user, address=f"http://n{n}.example.com")
        assert "n25.example.com" in owner.get("/dashboard/webhooks").body
        assert "http://n0.example.com" in owner.get("/dashboard/webhooks", page=2).body
        for odd in ("0", "-1", "99", "x"):
            owner.get("/dashboard/webhooks", page=odd)

    def test_a_sysadmin_has_their_own(self, sysadmin, user):
        create(user, address="http://theirs.example.com")
        assert "theirs.example.com" not in sysadmin.get("/dashboard/webhooks").body


class TestForm:
    def test_a_webhook_is_made_of_it(self, owner, user):
        organization = factories.Organization()
        page = owner.submit(
            "/webhook/new",
            **FILLED,
            description="for the map",
            max_rate="30",
            coalesce="true",
            headers="X-Key: k:1\n\n Authorization:  Bearer b ",
            **{"filter-organization": organization["name"], "filter-tag": "air, water"},
        )
        (webhook,) = call(user, "webhook_list")
        assert webhook["topics"] == FILLED["topic"]
        assert (webhook["address"], webhook["format"]) == (ADDRESS, "standard")
        assert (webhook["description"], webhook["max_rate"]) == ("for the map", 30)
        assert webhook["coalesce"] is True and webhook["headers"] == ["Authorization", "X-Key"]
        assert webhook["filters"] == {"organization": [organization["id"]], "tag": ["air", "water"]}
        # And then there is what the receiver needs.
        secret = call(user, "webhook_secret_show", id=webhook["id"])["secret"]
        assert page.body.count(secret) >= 4
        assert "no-store" in page.headers["Cache-Control"]

        edit = owner.get(f"/webhook/{webhook['id']}/edit").body
        assert f'value="{organization["name"]}"' in edit and 'value="air, water"' in edit
        assert "Bearer" not in edit.replace("Bearer …", "") and "Authorization, X-Key" in edit

    def test_what_is_wrong_is_said_at_its_field(self, owner):
        page = owner.post(
            "/webhook/new",
            200,
            address="http://10.0.0.1/",
            description="kept",
            max_rate="many",
            headers="a secret line",
            format="xml",
        ).body
        # The headers come first: what follows is not asked for then.
        assert 'id="error-headers"' in page and "lines of Name: value" in page
        page = owner.post(
            "/webhook/new",
            200,
            address="http://10.0.0.1/",
            description="kept",
            max_rate="many",
            format="xml",
            **{"filter-group": "none-such"},
        ).body
        for field in ("topic", "address", "max_rate", "format", "filters"):
            assert f'id="error-{field}"' in page, field
            assert f'href="#field-{field}"' in page
        assert 'value="kept"' in page and 'value="none-such"' in page
        assert 'aria-invalid="true"' in page and "There is no group none-such" in page
        assert stored() == []

    def test_too_many_are_refused_in_words(self, owner, user, ckan_config, monkeypatch):
        monkeypatch.setitem(ckan_config, "ckanext.webhooks.max_per_user", 1)
        create(user)
        assert "there may not be more of one user" in owner.post("/webhook/new", 200, **FILLED).body

    def test_headers_that_are_not_touched_stay(self, owner, user):
        hook = create(user, headers={"X-Key": "k"}, max_rate=3, filters={"tag": "air"})
        path = f"/webhook/{hook}/edit"
        owner.submit(path, **FILLED)
        webhook = call(user, "webhook_show", id=hook)
        assert webhook["headers"] == ["X-Key"]
        assert (webhook["max_rate"], webhook["filters"]) == (None, {})
        owner.submit(path, **FILLED, headers="X-Other: o")
        assert call(user, "webhook_show", id=hook)["headers"] == ["X-Other"]
        owner.submit(path, **FILLED, no_headers="true")
        assert call(user, "webhook_show", id=hook)["headers"] == []
        page = owner.post(path, 200, **{**FILLED, "address": "nonsense"}).body
        assert 'id="error-address"' in page

    @pytest.mark.parametrize("topic", ["resource/*", "dataset/delete", "*", "nonsense"])
    @pytest.mark.parametrize("format_", ["classic", "standard", "cloudevents", "nonsense"])
    def test_an_example_is_shown_of_what_was_chosen(self, owner, topic, format_):
        page = owner.post("/webhook/new", 200, topic=topic, format=format_, example="show")
        body = example(page)
        body = body.get("data", body)
        wanted = {"*": "dataset/update", "resource/*": "resource/update"}
        assert body["topic"] == wanted.get(topic, topic if "/" in topic else "dataset/update")
        assert ("package_id" in body["entity"]) == topic.startswith("resource")
        assert stored() == []
        alone = owner.post("/webhook/example", 200, topic=topic, format=format_)
        assert json.loads(alone.body) == example(page)
        assert alone.headers["Content-Type"].startswith("text/plain")

    def test_what_a_user_writes_is_escaped(self, owner, user):
        page = owner.post(
            "/webhook/new", 200, address=HOSTILE, description=HOSTILE, headers=HOSTILE
        )
        assert "<script>alert" not in page.body
        hook = create(
            user, description=HOSTILE, address="http://example.com/<script>alert(1)</script>"
        )
        for path in ("/dashboard/webhooks", *(f"/webhook/{hook}{path}" for path in OF_ONE)):
            assert "<script>alert" not in owner.get(path).body, path


class TestSecret:
    def test_it_is_on_its_own_page_alone(self, owner, user):
        hook = create(user, headers={"X-Key": "the-value"})
        secret = call(user, "webhook_secret_show", id=hook)["secret"]
        for path in ("/dashboard/webhooks", *(f"/webhook/{hook}{path}" for path in OF_ONE)):
            page = owner.get(path).body
            assert "the-value" not in page
            assert (secret in page) == path.endswith("/secret")

    def test_the_one_before_a_rotation_is_shown_too(self, owner, user):
        hook = create(user)
        old = call(user, "webhook_secret_show", id=hook)["secret"]
        page = owner.submit(f"/webhook/{hook}/rotate").body
        new = call(user, "webhook_secret_show", id=hook)["secret"]
        assert old != new and old in page and new in page

    def test_one_that_cannot_be_read_is_said(self, owner, user):
        hook = create(user)
        execute("UPDATE webhooks SET secret = 'x'")
        page = owner.get(f"/webhook/{hook}/secret").body
        assert "cannot be read" in page and "whsec_" not in page


def test_a_webhook_is_disabled_and_enabled(owner, user):
    hook = create(user)
    page = owner.submit(f"/webhook/{hook}/switch", state="disabled").body
    assert "disabled" in page and "It is told nothing: by a person" in page and "Enable" in page
    assert call(user, "webhook_show", id=hook)["state"] == "disabled"
    page = owner.submit(f"/webhook/{hook}/switch", state="active").body
    assert call(user, "webhook_show", id=hook)["state"] == "active"
    assert "that can be replayed" in page


def test_a_webhook_is_deleted_once_that_was_confirmed(owner, user):
    hook = create(user)
    page = owner.get(f"/webhook/{hook}/delete").body
    assert ADDRESS in page and 'method="post"' in page
    assert len(stored()) == 1
    assert "The webhook was deleted" in owner.submit(f"/webhook/{hook}/delete").body
    assert stored() == []


def test_missing_tables_are_said_with_what_to_run(owner):
    execute("ALTER TABLE webhooks RENAME TO webhooks_away")
    try:
        assert "ckan db upgrade -p webhooks" in owner.get("/dashboard/webhooks", 500).body
    finally:
        execute("ALTER TABLE webhooks_away RENAME TO webhooks")
