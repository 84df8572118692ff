"""What bin/demo shows once the services run; see there."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import ckanapi
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from ckanext.webhooks.tests.receiver import Receiver
from ckanext.webhooks.tests.site import Site, SiteError

TOPICS = [
    f"{kind}/{what}" for kind in ("dataset", "resource") for what in ("create", "update", "delete")
]
PATIENCE = 30.0


class DemoError(Exception):
    """The demonstration did not show what it should; the message says what."""


def register(ckan: ckanapi.RemoteCKAN, address: str) -> dict[str, str]:
    """Register a webhook per topic.

    :returns: the secret of each webhook
    """
    ids = [ckan.action.webhook_create(topic=topic, address=address) for topic in TOPICS]
    print(f"  {len(ids)} webhooks registered at {address}")
    return {id_: _secret(ckan.action.webhook_secret_show(id=id_)) for id_ in ids}


def _secret(answer: Any) -> str:
    return str(answer["secret"] if isinstance(answer, dict) else answer)


def change_things(ckan: ckanapi.RemoteCKAN) -> None:
    """Create, change and delete a dataset with a resource."""
    organization = ckan.action.organization_create(name=f"springs-{time.time_ns()}")
    dataset = ckan.action.package_create(
        name=f"springs-{time.time_ns()}",
        title="Water levels of all springs",
        owner_org=organization["id"],
        resources=[{"name": "levels.csv", "url": "https://example.com/levels.csv"}],
    )
    resource = dataset["resources"][0]
    ckan.action.package_patch(id=dataset["id"], title="Water levels of all springs, since 1950")
    ckan.action.resource_patch(id=resource["id"], description="Daily means, in metres")
    ckan.action.resource_delete(id=resource["id"])
    ckan.action.package_delete(id=dataset["id"])


def show_deliveries(receiver: Receiver, secrets: dict[str, str]) -> None:
    """Print each delivery as it arrives, until every topic was there.

    :raises DemoError: a topic did not arrive in time, or a signature is wrong
    """
    missing, seen = set(TOPICS), 0
    deadline = time.monotonic() + PATIENCE
    while missing:
        try:
            arrived = receiver.wait(seen + 1, max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            raise DemoError(
                f"after {PATIENCE:g} s these had not arrived: {', '.join(sorted(missing))}"
            ) from None
        for request in arrived[seen:]:
            body = request.json
            try:
                Webhook(secrets[body["webhook_id"]]).verify(request.body, request.headers)
            except WebhookVerificationError as error:
                raise DemoError(f"the signature of {body['topic']} is wrong: {error}") from None
            status = receiver.respond(request)[0]
            name = body["entity"].get("name") or body["entity"]["id"]
            print(f"  {body['topic']:<16} {name:<28} {status}  signature verified", flush=True)
            missing.discard(body["topic"])
        seen = len(arrived)


def main(folder: Path, began: float) -> None:
    def step(text: str) -> None:
        print(f"[{time.monotonic() - began:3.0f}s] {text}", flush=True)

    step("CKAN with a database of its own")
    with Site(folder) as site, Receiver() as receiver:
        site.start_web()
        worker = site.start_worker()
        ckan = ckanapi.RemoteCKAN(site.url, apikey=site.token)
        version = ckan.action.status_show()["ckan_version"]
        step(f"CKAN {version} at {site.url}, and a worker")
        secrets = register(ckan, f"{receiver.url}/callback")
        step("a dataset with a resource: created, changed, deleted")
        try:
            change_things(ckan)
            show_deliveries(receiver, secrets)
        except DemoError as error:
            raise worker.error(f"delivers not as it should: {error}") from None
    step(f"all {len(TOPICS)} topics arrived")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), time.monotonic() - float(sys.argv[2]))
    except SiteError as failure:
        raise SystemExit(
            f"\nbin/demo: {failure}\n    The other logs are in {sys.argv[1]}"
        ) from None
