"""How many webhooks there may be, of one user and for one host."""

from __future__ import annotations

import ckan.plugins.toolkit as tk
import pytest
from ckan.tests import factories

from ..callers import call, create, stored

pytestmark = pytest.mark.usefixtures("webhooks_db")

PER_USER = "ckanext.webhooks.max_per_user"
PER_HOST = "ckanext.webhooks.max_per_host"
A, B = "http://a.example.com/x", "http://b.example.com/"


def refusal(field: str, caller, action: str, **data) -> str:
    before = stored()
    with pytest.raises(tk.ValidationError) as error:
        call(caller, action, **data)
    assert stored() == before
    (message,) = error.value.error_dict[field]
    return message


@pytest.mark.ckan_config(PER_USER, 2)
def test_one_user_has_so_many_and_no_more():
    user, other, sysadmin = factories.User(), factories.User(), factories.Sysadmin()
    first, _second = create(user), create(user)
    message = refusal("message", user, "webhook_create", topic="*", address=A)
    assert "2 webhooks" in message and "webhook_list" in message and PER_USER in message
    # One that is disabled is one still; what is there may be changed.
    call(user, "webhook_patch", id=first, state="disabled")
    refusal("message", user, "webhook_create", topic="*", address=A)
    call(user, "webhook_patch", id=first, address=A, state="active")
    # That concerns nobody else, and no sysadmin.
    create(other)
    for _ in range(3):
        create(sysadmin)
    call(user, "webhook_delete", id=first)
    create(user)


@pytest.mark.ckan_config(PER_HOST, 2)
def test_one_host_is_called_by_so_many_and_no_more():
    user, other, sysadmin = factories.User(), factories.User(), factories.Sysadmin()
    first = create(user, address=A)
    create(other, address="https://A.example.com:8443/y")
    message = refusal("address", user, "webhook_create", topic="*", address=A)
    assert "2 webhooks call a.example.com" in message and PER_HOST in message
    moved = create(user, address=B)
    refusal("address", user, "webhook_patch", id=moved, address=A)
    create(sysadmin, address=A)
    # What else is changed of one that is there is not its matter.
    call(user, "webhook_patch", id=first, description="d")


@pytest.mark.ckan_config(PER_HOST, 1)
def test_one_that_is_disabled_calls_nobody_until_it_is_enabled():
    user, sysadmin = factories.User(), factories.Sysadmin()
    first = create(user, address=A)
    call(user, "webhook_patch", id=first, state="disabled")
    second = create(user, address=A)
    refusal("address", user, "webhook_patch", id=first, state="active")
    call(user, "webhook_patch", id=second, address=B)
    call(user, "webhook_patch", id=first, state="active")
    call(sysadmin, "webhook_patch", id=second, address=A)


@pytest.mark.ckan_config(PER_HOST, 1)
@pytest.mark.ckan_config("ckanext.webhooks.allowed_networks", ["10.0.0.0/8"])
def test_a_host_of_the_portal_s_own_network_counts_as_any_other():
    user = factories.User()
    create(user, address="http://10.1.2.3/a")
    refusal("address", user, "webhook_create", topic="*", address="http://10.1.2.3:81/b")


@pytest.mark.ckan_config(PER_USER, 0)
@pytest.mark.ckan_config(PER_HOST, 0)
def test_without_a_bound_there_is_none():
    user = factories.User()
    for _ in range(3):
        create(user)
