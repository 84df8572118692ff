"""Somebody who looks at pages, by CKAN's test client."""

from __future__ import annotations

import re
from typing import Any

from ckan import model
from ckan.tests import factories


class Visitor:
    """Somebody at a browser, who is logged in unless it is nobody.

    :param app: CKAN's test application
    :param user: None for who has not logged in
    """

    def __init__(self, app: Any, user: dict[str, Any] | None) -> None:
        # With its own cookies; on CKAN 2.10 and 2.11 the application itself keeps none.
        self.client = app.test_client()
        self.user = user
        self.headers = {}
        if user is not None:
            self.headers["Authorization"] = factories.APIToken(user=user["name"])["token"]

    def get(self, path: str, status: int = 200, /, **query: Any) -> Any:
        """Look at a page; gives CKAN's answer."""
        return self._ask("get", path, status, query_string=query or None)

    def post(self, path: str, status: int = 302, /, **fields: Any) -> Any:
        return self._ask("post", path, status, data=fields)

    def submit(self, path: str, /, **fields: Any) -> Any:
        """Send a form, and look at the page that follows."""
        answer = self.post(path, **fields)
        return self.get(re.sub("^https?://[^/]*", "", answer.headers["Location"]))

    def _ask(self, method: str, path: str, status: int, **what: Any) -> Any:
        ask = getattr(self.client, method)
        answer = ask(path, headers=self.headers, follow_redirects=False, **what)
        # What the request left in the session is not what comes next in the test.
        model.Session.remove()
        assert answer.status_code == status, answer.body[:2000]
        return answer
