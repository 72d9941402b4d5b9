import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_comfy_lock.domain.config import LeasePolicy, lease_policy, parse_pool
from jupyter_comfy_lock.domain.errors import ConfigError

GOOD = {"id": "gpu-1", "url": "http://gpu:8188"}


def refusal_of(entries) -> ConfigError:
    with pytest.raises(ConfigError) as refused:
        parse_pool(entries)
    return refused.value


def test_only_id_and_url_are_needed():
    (comfy,) = parse_pool([GOOD])
    assert (comfy.comfy_id, comfy.url, comfy.capacity) == ("gpu-1", "http://gpu:8188", 4)
    assert (dict(comfy.headers), comfy.labels) == ({}, frozenset())


def test_everything_can_be_said():
    full = {"headers": {"X-Key": "k"}, "labels": ["sdxl", "a"], "capacity": 1}
    (comfy,) = parse_pool([{**GOOD, "url": "https://gpu/comfy/", **full}])
    assert comfy.url == "https://gpu/comfy"
    assert (comfy.headers, comfy.labels, comfy.capacity) == (
        {"X-Key": "k"},
        frozenset({"sdxl", "a"}),
        1,
    )


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ("gpu-1", "pool"),
        (None, "pool"),
        ({"gpu-1": "http://x"}, "pool"),
        (["http://x"], "pool[0]"),
        ([GOOD, {**GOOD, "id": "gpu-2", "url": "http://b", "urls": "x"}], "pool[1].urls"),
        ([{"url": "http://x"}], "pool[0].id"),
        ([{**GOOD, "id": ""}], "pool[0].id"),
        ([{**GOOD, "id": "a/b"}], "pool[0].id"),
        ([{**GOOD, "id": ".."}], "pool[0].id"),
        ([{**GOOD, "id": 7}], "pool[0].id"),
        ([GOOD, {**GOOD, "url": "http://b"}], "pool[1].id"),
        ([GOOD, {**GOOD, "id": "gpu-2"}], "pool[1].url"),
        ([{"id": "gpu-1"}], "pool[0].url"),
        ([{**GOOD, "url": "gpu:8188"}], "pool[0].url"),
        ([{**GOOD, "url": "ftp://gpu"}], "pool[0].url"),
        ([{**GOOD, "url": "http://"}], "pool[0].url"),
        ([{**GOOD, "url": "http://gpu:99999"}], "pool[0].url"),
        ([{**GOOD, "url": "http://[::1"}], "pool[0].url"),
        ([{**GOOD, "url": "http://g pu"}], "pool[0].url"),
        ([{**GOOD, "url": "http://gpu\n"}], "pool[0].url"),
        ([{**GOOD, "url": 8188}], "pool[0].url"),
        ([{**GOOD, "headers": "X: y"}], "pool[0].headers"),
        ([{**GOOD, "headers": {"X-Key": 1}}], "pool[0].headers.X-Key"),
        ([{**GOOD, "labels": "sdxl"}], "pool[0].labels"),
        ([{**GOOD, "labels": [1]}], "pool[0].labels"),
        ([{**GOOD, "labels": 1}], "pool[0].labels"),
        ([{**GOOD, "capacity": 0}], "pool[0].capacity"),
        ([{**GOOD, "capacity": True}], "pool[0].capacity"),
        ([{**GOOD, "capacity": 1.5}], "pool[0].capacity"),
    ],
)
def test_a_wrong_setting_is_named_by_its_key(wrong, key):
    error = refusal_of(wrong)
    assert error.details == {"key": key}
    assert error.message.startswith(f"c.ComfyLock.{key}: ")


@pytest.mark.parametrize(
    "url",
    [
        "http://ann:s3cr3t@gpu",
        "ftp://ann:s3cr3t@gpu",
        "http://gpu?token=s3cr3t",
        "gpu?token=s3cr3t",
        "http://gpu#s3cr3t",
        "http://ann:s3cr3t@[gpu",
    ],
)
def test_a_secret_in_a_url_is_refused_and_not_repeated(url):
    error = refusal_of([{**GOOD, "url": url}])
    assert error.details == {"key": "pool[0].url"}
    assert "s3cr3t" not in error.message
    assert "headers" in error.message


@pytest.mark.parametrize("value", ["a\nX: s3cr3t", "a\rs3cr3t", "s3cr3t\0", 1, None])
def test_a_header_that_could_not_be_sent_is_refused_and_its_value_not_shown(value):
    error = refusal_of([{**GOOD, "headers": {"X-Key": value}}])
    assert error.details == {"key": "pool[0].headers.X-Key"}
    assert "s3cr3t" not in error.message


@pytest.mark.parametrize("name", ["", "X Key", "X:Key", "X\nKey", "Schlüssel", 1])
def test_a_header_has_a_name_that_http_knows(name):
    error = refusal_of([{**GOOD, "headers": {name: "v"}}])
    assert "is no name of an HTTP header" in error.message


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.fixed_dictionaries({}, optional={key: _JSON | st.text() for key in (*GOOD, "headers")}))
def test_any_entry_is_taken_or_refused_by_name(entry):
    try:
        parse_pool([entry])
    except ConfigError as error:
        assert error.details["key"].startswith("pool[0]")  # noqa: PT017 - both are fine


@pytest.mark.parametrize("renew_every_s", [0, -1.0, 14.0, float("nan")])
def test_a_policy_that_would_lose_a_healthy_kernels_lock_is_refused(renew_every_s):
    with pytest.raises(ConfigError, match="one late renewal would lose"):
        LeasePolicy(ttl_s=30.0, renew_every_s=renew_every_s, margin_s=3.0)


def test_a_lease_leaves_room_for_missed_renewals_whatever_its_length():
    for ttl_s in (1.0, 30.0, 3600.0):
        policy = lease_policy(ttl_s)
        assert policy.ttl_s == ttl_s
        assert 2 * policy.renew_every_s < ttl_s - policy.margin_s


@pytest.mark.parametrize("ttl_s", [0.0, -30.0, 0.5, float("nan"), float("inf")])
def test_a_lease_that_cannot_be_kept_is_refused_by_the_name_of_its_setting(ttl_s):
    with pytest.raises(ConfigError) as refused:
        lease_policy(ttl_s)
    assert refused.value.details == {"key": "lease_ttl_s"}
