"""What values may be, and that an error says what would be right.

Those that look something up in CKAN's database are in test_schema.py.
"""

from __future__ import annotations

import base64
import datetime
import json

import ckan.plugins.toolkit as tk
import pytest

from ... import topics
from ...logic import validators

SECRET = "whsec_" + base64.b64encode(bytes(32)).decode()
NETWORKS = pytest.mark.ckan_config("ckanext.webhooks.allowed_networks", ["10.20.0.0/16"])


@pytest.fixture
def refused():
    """Give the text with which a validator refuses a value."""

    def text(validator, value):
        with pytest.raises(tk.Invalid) as error:
            validator(value)
        return str(error.value.error)

    return text


@pytest.mark.parametrize(
    ("value", "year"),
    [
        ("0001-01-01T00:00:00Z", 1),
        ("0001-01-01T00:00:00+14:00", 1),
        ("0001-01-01", 1),
        ("9999-12-31T23:59:59Z", 9999),
        ("9999-12-31T23:59:59.999999-14:00", 9999),
        ("2026-11-24T18:27:56Z", 2026),
    ],
)
def test_a_time_may_be_any_and_leaves_room_to_reckon(value, year):
    found = validators.moment(value)
    assert found.year == year
    assert found.utcoffset() == datetime.timedelta()
    found - datetime.timedelta(hours=23), found + datetime.timedelta(hours=23)


def test_plugins_find_each_by_its_name():
    for name, validator in validators.validators().items():
        assert name.startswith("webhooks_")
        assert callable(validator)


@pytest.mark.parametrize("value", [None, 1, 1.5, True, [], ["a"], {}, b"bytes"])
def test_text_is_text(value, refused):
    assert "text" in refused(validators.text, value)


@pytest.mark.parametrize("value", ["\x00", "a\x00b", "\ud800"])
def test_text_is_what_the_database_can_hold(value, refused):
    """Either would be an error of the database, and an answer 500."""
    assert "characters" in refused(validators.text, value)
    assert "characters" in refused(validators.filters, {"tag": value})


@pytest.mark.parametrize("value", ["", "a", "ü川\U0001f30a", "line\nline\ttab"])
def test_text_may_be_any_other(value):
    assert validators.text(value) == value


def test_lengths_and_numbers_are_bounded(refused):
    assert validators.max_length(3)("abc") == "abc"
    assert "3" in refused(validators.max_length(3), "abcd")
    assert validators.at_most(3)(3) == 3
    assert "3" in refused(validators.at_most(3), 4)


@pytest.mark.parametrize("value", ["dataset/purge", "", "dataset", None, 1, ["*"], {}])
def test_an_unknown_topic_names_those_that_exist(value, refused):
    text = refused(validators.topic, value)
    for name in (*topics.TOPICS, *topics.PATTERNS):
        assert name in text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("dataset/create", ["dataset/create"]),
        ("*", ["*"]),
        (["dataset/create", "resource/*"], ["dataset/create", "resource/*"]),
        (("dataset/create",), ["dataset/create"]),
        (["*", "*"], ["*"]),
        # As the column of 2015 has several, which webhook_show gives back.
        ("dataset/create, resource/*", ["dataset/create", "resource/*"]),
        ([" dataset/create "], ["dataset/create"]),
    ],
)
def test_topics_are_one_or_a_list(value, expected):
    assert validators.topic_list(value) == expected


@pytest.mark.parametrize(
    "value",
    ["", ",", [], {}, None, 5, True, ["dataset/create", "x"], [None], [["*"]], ["*", {}], [""]],
)
def test_anything_else_is_no_list_of_topics(value, refused):
    assert "topic" in refused(validators.topic_list, value).lower()


@pytest.mark.database  # it reads CKAN's configuration
@NETWORKS
@pytest.mark.parametrize(
    "value",
    [
        "http://example.com/callback",
        "  https://example.com/  ",
        "http://10.20.3.4/",
        "http://no-such-name.invalid/",
    ],
)
def test_an_address_may_be_called(value):
    assert validators.address(value) == value.strip()


@pytest.mark.database  # it reads CKAN's configuration
@NETWORKS
@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ("not a url", "spaces"),
        ("callback", "http://"),
        ("ftp://example.com/", "http://"),
        ("http://user:password@example.com/", "`headers`"),
        ("http://", "host"),
        ("http://10.1.2.3/", "ckanext.webhooks.allowed_networks"),
        ("http://localhost/", "ckanext.webhooks.allowed_networks"),
        ("http://[::ffff:a01:203]/", "ckanext.webhooks.allowed_networks"),
        ("http://example.com/" + "a" * 10_000, "2048"),
        ("http://example.com/\ud800", "characters"),
        (5, "URL"),
        (["http://example.com/"], "URL"),
        ({"url": "http://example.com/"}, "URL"),
        (None, "URL"),
        (True, "URL"),
    ],
)
def test_an_address_that_may_not_says_why(value, wrong, refused):
    assert wrong in refused(validators.address, value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"tag": "water"}, {"tag": ["water"]}),
        ({"tag": ["wet", "blue", "wet"]}, {"tag": ["blue", "wet"]}),
        ({"dataset": "rivers", "type": "showcase"}, {"dataset": ["rivers"], "type": ["showcase"]}),
        ('{"tag": "water"}', {"tag": ["water"]}),
        ({}, {}),
    ],
)
def test_filters_are_values_by_facet(value, expected):
    assert validators.filters(value) == expected


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ({"license": "odbl"}, "choose from dataset, group, organization, tag, type"),
        ({"tag": "a", 5: "b"}, "choose from"),
        ({"tag": []}, "tag"),
        ({"tag": ""}, "tag"),
        ({"tag": [""]}, "tag"),
        ({"tag": None}, "tag"),
        ({"tag": 5}, "tag"),
        ({"tag": ["a", 5]}, "tag"),
        ({"tag": {"a": "b"}}, "tag"),
        ({"tag": [str(n) for n in range(101)]}, "100"),
        ([], "object"),
        ("nonsense", "object"),
        ("[1]", "object"),
        (5, "object"),
        (None, "object"),
    ],
)
def test_filters_of_another_form_say_which(value, wrong, refused):
    assert wrong in refused(validators.filters, value)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"Authorization": "Bearer abc"},
        {"X-A": "a", "x_b": "b c", "X.C!#$%&'*+^`|~": "!"},
        {"X-A": "a" * 4000},
        {f"X-{n}": "a" for n in range(20)},
    ],
)
def test_headers_of_ones_own_are_taken(value):
    assert validators.headers(value) == value
    assert validators.headers(json.dumps(value)) == value


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ({"Host": "x"}, "Host"),
        ({"content-type": "x"}, "content-type"),
        ({"Content-Length": "0"}, "Content-Length"),
        ({"Transfer-Encoding": "chunked"}, "Transfer-Encoding"),
        ({"Connection": "close"}, "Connection"),
        ({"WEBHOOK-SIGNATURE": "v1,x"}, "WEBHOOK-SIGNATURE"),
        ({"webhook-id": "x"}, "webhook-id"),
        ({"Proxy-Authorization": "x"}, "Proxy-Authorization"),
        ({"User-Agent": "x"}, "User-Agent"),
        ({"": "x"}, "name of a header"),
        ({"X A": "x"}, "name of a header"),
        ({"X:": "x"}, "name of a header"),
        ({"X\r\nHost": "x"}, "name of a header"),
        ({"Ü": "x"}, "name of a header"),
        ({"X" * 101: "x"}, "name of a header"),
        ({5: "x"}, "name of a header"),
        ({"X": ""}, "value of header X"),
        ({"X": " a"}, "value of header X"),
        ({"X": "a\r\nHost: b"}, "value of header X"),
        ({"X": "a\n"}, "value of header X"),
        ({"X": "a\x00"}, "value of header X"),
        ({"X": "ü"}, "value of header X"),
        ({"X": "a" * 4001}, "value of header X"),
        ({"X": None}, "value of header X"),
        ({"X": 5}, "value of header X"),
        ({"X": ["a"]}, "value of header X"),
        ({f"X-{n}": "a" for n in range(21)}, "20"),
        ([], "object"),
        ("nonsense", "object"),
        (5, "object"),
    ],
)
def test_headers_that_are_not_say_which(value, wrong, refused):
    assert wrong in refused(validators.headers, value)


@pytest.mark.parametrize(
    "name",
    [
        # RFC 9110, the connection's own: section 7.6.1, and what frames a message.
        "Connection",
        "Proxy-Connection",
        "Keep-Alive",
        "TE",
        "Transfer-Encoding",
        "Upgrade",
        "Trailer",
        "Content-Length",
        "Content-Encoding",
        "Content-Type",
        "Content-Range",
        "Proxy-Authenticate",
        "Proxy-Authorization",
        "HTTP2-Settings",
        "Host",
        "Expect",
        "Date",
        # Fetch, forbidden request-headers.
        "Accept-Charset",
        "Accept-Encoding",
        "Access-Control-Request-Headers",
        "Access-Control-Request-Method",
        "Access-Control-Request-Private-Network",
        "Cookie",
        "Cookie2",
        "DNT",
        "Origin",
        "Referer",
        "Set-Cookie",
        "Via",
        "Sec-Fetch-Site",
        "X-HTTP-Method",
        "X-HTTP-Method-Override",
        "X-Method-Override",
        # Where a request comes from, a proxy says.
        "Forwarded",
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Real-IP",
        # A cloud's metadata service answers to these alone.
        "Metadata",
        "Metadata-Flavor",
        "X-Google-Metadata-Request",
        "X-aws-ec2-metadata-token",
        # This software's.
        "User-Agent",
        "webhook-id",
        "webhook-timestamp",
        "webhook-signature",
        "Webhook-Anything",
    ],
)
def test_headers_that_are_not_one_s_own_are_refused(name, refused):
    for spelt in (name, name.lower(), name.upper()):
        assert f"Header {spelt} is set by" in refused(validators.headers, {spelt: "x"})


@pytest.mark.parametrize(
    "name", ["Authorization", "X-Api-Key", "X-Forward", "Accept", "Prefer", "X-Host", "Contents"]
)
def test_headers_that_resemble_them_are_taken(name):
    assert validators.headers({name: "x"}) == {name: "x"}


def test_the_value_of_a_header_is_never_repeated(refused):
    assert "geheim" not in refused(validators.headers, {"X": "geheim\n"})


def test_a_secret_has_the_form_of_the_spec(refused):
    assert validators.secret(SECRET) == SECRET
    assert "whsec_" in refused(validators.secret, "secret")
    assert "24 to 64" in refused(validators.secret, "whsec_c2hvcnQ=")
    for value in (None, 5, [SECRET], {}):
        assert "text" in refused(validators.secret, value)


def test_a_refused_secret_is_never_repeated(refused):
    assert "geheim" not in refused(validators.secret, "whsec_geheim")
