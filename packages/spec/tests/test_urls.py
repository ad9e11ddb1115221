"""Addresses in metadata: plain http(s) to public hosts, in every disguise of an internal one."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from adapterhub.spec.validation.urls import url_problem


@pytest.mark.parametrize(
    "address",
    [
        "https://example.org",
        "http://example.org/a/b.zip?x=1&y=%20#top",
        "HTTPS://EXAMPLE.ORG:8443/",
        "https://xn--exmple-cua.org/",
        "https://8.8.8.8/x",
        "https://[2606:4700::1111]/",
        "https://example.org/größe/日本.zip",
        "https://example.org./",
        "https://example.org/@user",
    ],
)
def test_public_addresses_are_fine(address: str) -> None:
    assert url_problem(address) is None


@pytest.mark.parametrize(
    "address",
    [
        "",
        "example.org",
        "//example.org",
        "ftp://example.org",
        "javascript:alert(1)",
        "java\tscript:alert(1)",
        "data:text/html,x",
        "file:///etc/passwd",
        "https:///x",
        "https://",
        "https://user@example.org",
        "https://user:pw@example.org",
        "https://example.org@evil.org/",
        "https://example.org\\@evil.org/",
        "https://example.org/a b",
        'https://example.org/"x',
        "https://example.org/'x",
        "https://example.org/<x>",
        "https://example.org/\nx",
        "https://example.org/%0d%0aSet-Cookie:x",
        "https://example.org/%00",
        "https://example.org/%zz",
        "https://example.org:0/",
        "https://example.org:99999/",
        "https://-example.org/",
        "https://exa..mple.org/",
        "http://localhost/",
        "http://localhost./",
        "http://x.localhost/",
        "http://intranet/",
        "http://metadata.google.internal/",
        "http://printer.local/",
        "http://127.0.0.1/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://017700000001/",
        "http://0/",
        "http://0.0.0.0/",
        "http://10.0.0.1/",
        "http://172.16.3.4/",
        "http://192.168.1.1/",
        "http://169.254.169.254/",
        "http://100.64.0.1/",
        "http://224.0.0.1/",
        "http://255.255.255.255/",
        "http://[::1]/",
        "http://[::]/",
        "http://[fe80::1]/",
        "http://[fe80::1%25eth0]/",
        "http://[fc00::1]/",
        "http://[::ffff:10.0.0.1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "http://①②⑦.⓪.⓪.①/",
        "http://127。0。0。1/",
        "http://exämple.org/",
        "http://1.2.3.4.5/",
        "http://256.1.1.1/",
        "http://example.0x1/",
        "https://" + "a" * 64 + ".org/",
        "https://example.org/" + "a" * 2000,
    ],
)
def test_other_addresses_are_refused(address: str) -> None:
    assert url_problem(address)


@given(st.text(max_size=60) | st.text(st.sampled_from("htps:/@[].%0x17abc#?&\\ "), max_size=40).map("http://{}".format))
def test_any_text_is_judged(text: str) -> None:
    assert url_problem(text) is None or url_problem(text)
