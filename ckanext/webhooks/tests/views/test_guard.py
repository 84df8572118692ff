"""A change takes the token of a form of this site, on every CKAN version as it is shipped."""

from __future__ import annotations

import re

import pytest
from ckan import model
from ckan.tests import factories

from ..callers import ADDRESS, create, stored

pytestmark = pytest.mark.usefixtures("webhooks_db")

PASSWORD = "correct-horse-battery"


def token(page) -> str:
    return re.findall('name="_?csrf_token" value="([^"]+)"', page.body)[0]


@pytest.mark.ckan_config("WTF_CSRF_ENABLED", True)
def test_a_change_takes_the_token_of_a_form(visit, made):
    user = factories.User(password=PASSWORD)
    hook = create(user)
    app = made["app"].test_client()
    with enabled(made["app"]):
        login = app.get("/user/login")
        field = re.findall('name="(_?csrf_token)"', login.body)[0]
        fields = {"login": user["name"], "password": PASSWORD, field: token(login)}
        app.post("/user/login", data=fields, follow_redirects=False)
        before = stored()
        of_one = ("edit", "rotate", "switch", "delete", "ping", "replay")
        paths = [f"/webhook/{path}" for path in ("new", "example", "delivery/1/redeliver")]
        paths += [f"/webhook/{hook}/{path}" for path in of_one] + ["/ckan-admin/webhooks/disable"]
        for path in paths:
            given = {"topic": "*", "address": ADDRESS, "since": "2020-01-01"}
            answer = app.post(path, data=given, follow_redirects=False)
            assert answer.status_code == 400, (path, answer.status_code)
        assert stored() == before
        page = app.get(f"/webhook/{hook}/delete")
        assert page.status_code == 200
        answer = app.post(
            f"/webhook/{hook}/delete", data={field: token(page)}, follow_redirects=False
        )
        assert answer.status_code == 302, answer.body[:500]
    model.Session.remove()
    assert stored() == []


class enabled:
    """While it lasts, CKAN asks for tokens."""

    def __init__(self, app) -> None:
        self.config = app.flask_app.config

    def __enter__(self) -> None:
        self.before = self.config["WTF_CSRF_ENABLED"]
        self.config["WTF_CSRF_ENABLED"] = True

    def __exit__(self, *error) -> None:
        self.config["WTF_CSRF_ENABLED"] = self.before
