"""The receivers that the page of the secret shows verify what is signed here."""

from __future__ import annotations

import html
import re
import runpy
import shutil
import subprocess
import time

import pytest
import standardwebhooks

from ...deliver import signing
from ..callers import call, create
from ..receiver import Receiver

pytestmark = pytest.mark.usefixtures("webhooks_db")


@pytest.fixture
def shown(owner, user):
    """Give a receiver by its language, and the secret."""
    hook = create(user)
    page = owner.get(f"/webhook/{hook}/secret").body
    secret = call(user, "webhook_secret_show", id=hook)["secret"]

    def find(language: str) -> str:
        (text,) = re.findall(f'id="receiver-{language}"[^>]*>(.*?)</pre>', page, re.S)
        return html.unescape(re.sub("<!--.*?-->", "", text, flags=re.S))

    return find, secret


def test_the_python_one_takes_what_is_signed_and_nothing_else(shown, tmp_path):
    find, secret = shown
    (tmp_path / "receiver.py").write_text(find("python"))
    names = runpy.run_path(str(tmp_path / "receiver.py"), run_name="receiver")
    names["app"].testing = True  # what it raises reaches us
    client = names["app"].test_client()
    headers = signing.headers("an-id", int(time.time()), b"{}", [secret])
    assert client.post("/callback", data=b"{}", headers=headers).status_code == 204
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        client.post("/callback", data=b'{"forged": 1}', headers=headers)


def test_the_request_by_curl_is_signed(shown):
    if not all(map(shutil.which, ("curl", "openssl", "bash"))):
        pytest.skip("curl or openssl is not installed")
    find, secret = shown
    with Receiver() as receiver:
        script = find("curl").replace("http://localhost:8080/callback", receiver.url)
        subprocess.run(["bash", "-c", script], check=True, capture_output=True, timeout=20)
        (request,) = receiver.wait(1)
    event = standardwebhooks.Webhook(secret).verify(request.body, dict(request.headers))
    assert event["topic"] == "ping"


def test_the_javascript_one_is_javascript(shown, tmp_path):
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    find, _secret = shown
    (tmp_path / "receiver.js").write_text(find("javascript"))
    subprocess.run(["node", "--check", str(tmp_path / "receiver.js")], check=True, timeout=20)
