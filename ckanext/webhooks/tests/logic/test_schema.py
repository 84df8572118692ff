"""Bad input: a ValidationError that names the field, and nothing is written."""

from __future__ import annotations

import base64

import ckan.plugins.toolkit as tk
import pytest
from ckan.tests import factories

from ...deliver.transport import resolving
from ..callers import ADDRESS, call, create, stored

pytestmark = pytest.mark.usefixtures("webhooks_db")

# Each field with values that are refused.
BAD = {
    "topic": [
        None,
        "",
        [],
        {},
        "dataset/purge",
        ["dataset/create", "nonsense"],
        [""],
        5,
        True,
        [{"topic": "*"}],
        [["*"]],
        "\x00",
    ],
    "address": [
        None,
        "",
        " ",
        "not a url",
        "example.com",
        "ftp://example.com/",
        "http://",
        "http://user:password@example.com/",
        "http://10.1.2.3/",
        "http://192.168.1.1:8080/hook",
        "http://169.254.169.254/latest/meta-data/",
        "http://[fd00::1]/",
        "http://example.com/" + "a" * 10_000,
        "http://example.com/\x00",
        5,
        True,
        [],
        [ADDRESS],
        {},
        {"url": ADDRESS},
        [{"url": ADDRESS}],
    ],
    "description": [5, ["a"], {"a": "b"}, [{"a": "b"}], "a" * 1001, "a\x00", "\ud800"],
    "filters": [
        5,
        "nonsense",
        ["tag"],
        [{"tag": "water"}],
        {"license": "odbl"},
        {"tag": []},
        {"tag": 5},
        {"tag": "\x00"},
        {"organization": "no-such-organization"},
        {"group": "no-such-group"},
    ],
    "format": ["xml", 5, ["classic"], {"a": "b"}, [{"a": "b"}]],
    "headers": [
        5,
        "nonsense",
        ["X-A"],
        [{"X-A": "b"}],
        {"Host": "x"},
        {"webhook-signature": "x"},
        {"X-A": "a\r\nb"},
    ],
    "max_rate": [0, -1, 60_001, 1.5, "", "many", "5 a minute", True, [5], {}, [{"a": "b"}]],
    "coalesce": ["maybe", 2, 0.5, ["true"], {"a": "b"}, [{"a": "b"}]],
    "secret": [
        "",
        "secret",
        "whsec_",
        "whsec_c2hvcnQ=",
        "whsec_" + base64.b64encode(bytes(65)).decode(),
        5,
        ["a"],
        {},
        [{"a": "b"}],
    ],
    # What is misspelt, or not the caller's to say, is not dropped in silence.
    "id": ["mine"],
    "state": ["disabled"],
    "user_id": ["somebody"],
    "adress": [ADDRESS],
    "topics": [["*"]],
}


def test_bad_input_is_refused_by_field_and_nothing_is_written():
    user, sysadmin = factories.User(), factories.Sysadmin()
    for field, values in BAD.items():
        for value in values:
            for caller in (user, sysadmin):
                with pytest.raises(tk.ValidationError) as error:
                    create(caller, **{field: value})
                assert list(error.value.error_dict) == [field], (field, value)
                (message,) = error.value.error_dict[field]
                assert message and "Traceback" not in message
    with pytest.raises(tk.ValidationError) as error:
        call(user, "webhook_create")
    assert set(error.value.error_dict) == {"topic", "address"}
    assert stored() == []


def test_a_refused_network_names_the_option_that_allows_it():
    user = factories.User()
    with pytest.raises(tk.ValidationError) as error:
        create(user, address="http://10.1.2.3/")
    (message,) = error.value.error_dict["address"]
    assert "private" in message
    assert "ckanext.webhooks.allowed_networks" in message


def test_the_machines_own_public_address_is_refused_when_it_is_registered(monkeypatch):
    monkeypatch.setattr(resolving, "_is_bindable", {"8.8.8.8"}.__contains__)
    user = factories.User()
    for address in ("https://8.8.8.8/", "https://134744072/", "https://[::ffff:8.8.8.8]/"):
        with pytest.raises(tk.ValidationError) as error:
            create(user, address=address)
        (message,) = error.value.error_dict["address"]
        assert "this machine's own" in message
    monkeypatch.setitem(tk.config, "ckanext.webhooks.allowed_networks", ["8.8.8.8:443"])
    create(user, address="https://8.8.8.8/")


@pytest.mark.parametrize("rate", [10**30, 60_001, 0, -1, 1.5])
def test_a_pace_that_is_none_is_refused_with_the_bounds(rate):
    with pytest.raises(tk.ValidationError) as error:
        create(factories.User(), max_rate=rate)
    assert error.value.error_dict == {
        "max_rate": ["Must be a whole number of deliveries a minute, from 1 to 60000"]
    }


def test_filters_take_ids_and_names_of_what_exists():
    user = factories.User()
    organization, group = factories.Organization(), factories.Group()
    for given in ("id", "name"):
        hook = create(user, filters={"organization": organization[given], "group": [group[given]]})
        assert call(user, "webhook_show", id=hook)["filters"] == {
            "organization": [organization["id"]],
            "group": [group["id"]],
        }
    # An organization is no group, nor the other way round.
    for wrong in ({"organization": group["name"]}, {"group": organization["name"]}):
        with pytest.raises(tk.ValidationError):
            create(user, filters=wrong)
    # Whether a dataset exists is not for everyone to know.
    hook = create(user, filters={"dataset": "no-such-dataset"})
    assert call(user, "webhook_show", id=hook)["filters"] == {"dataset": ["no-such-dataset"]}


def test_what_is_empty_is_as_if_left_out():
    user = factories.User()
    hook = create(user, description="", filters={}, headers={}, format="")
    shown = call(user, "webhook_show", id=hook)
    assert (shown["description"], shown["filters"], shown["headers"]) == (None, {}, [])
    assert shown["format"] == "classic"


def test_an_id_is_text_and_there_must_be_one():
    user, sysadmin = factories.User(), factories.Sysadmin()
    for action in (
        "webhook_show",
        "webhook_update",
        "webhook_patch",
        "webhook_delete",
        "webhook_secret_show",
        "webhook_secret_rotate",
    ):
        for caller in (user, sysadmin):
            for bad in (None, "", 5, 0, True, [], ["a"], {}, {"a": "b"}, [{"a": "b"}], "\x00"):
                with pytest.raises(tk.ValidationError) as error:
                    call(caller, action, id=bad)
                assert list(error.value.error_dict) == ["id"], (action, bad)
            with pytest.raises(tk.ValidationError):
                call(caller, action)


def test_a_listing_refuses_what_it_cannot_mean():
    sysadmin = factories.Sysadmin()
    for field, values in {
        "state": ["gone", 5, ["active"]],
        "topic": ["nonsense", 5, ["*"]],
        "limit": [-1, 1001, "many", 1.5, 10**30, [1]],
        "offset": [-1, "many", 2**63, 10**30],
        "user": [5, ["a"], {"a": "b"}, "\x00"],
        "owner": ["me"],
    }.items():
        for value in values:
            with pytest.raises(tk.ValidationError) as error:
                call(sysadmin, "webhook_list", **{field: value})
            assert list(error.value.error_dict) == [field], (field, value)
    with pytest.raises(tk.ObjectNotFound):
        call(sysadmin, "webhook_list", user="no-such-user")
