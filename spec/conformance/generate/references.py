"""Vectors of the reference grammar (SPEC.md 10). Written by hand; nothing is computed but repetitions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from writing import CONFORMANCE, numbered, write

HEX = "0123456789abcdef" * 4

#: (text, parts, normal form or None where it is the text)
VALID: list[tuple[str, dict[str, str], str | None]] = [
    ("sst", {"word": "sst"}, None),
    ("x", {"word": "x"}, None),
    ("0", {"word": "0"}, None),
    ("no", {"word": "no"}, None),
    ("null", {"word": "null"}, None),
    ("sst--2", {"word": "sst--2"}, None),
    ("sst-", {"word": "sst-"}, None),
    ("a.b_c-d+e", {"word": "a.b_c-d+e"}, None),
    ("c++", {"word": "c++"}, None),
    ("SST_2", {"word": "sst_2"}, "sst_2"),
    ("sha256", {"word": "sha256"}, None),
    ("sentiment/sst-2", {"task": "sentiment", "subtask": "sst-2"}, None),
    ("Sentiment/SST-2", {"task": "sentiment", "subtask": "sst-2"}, "sentiment/sst-2"),
    ("sha256/sha256", {"task": "sha256", "subtask": "sha256"}, None),
    ("sst-2@ukp", {"word": "sst-2", "namespace": "ukp"}, None),
    ("sentiment/sst-2@UKP", {"task": "sentiment", "subtask": "sst-2", "namespace": "ukp"}, "sentiment/sst-2@ukp"),
    ("sst@sha2560", {"word": "sst", "namespace": "sha2560"}, None),
    ("sst@sha-256", {"word": "sst", "namespace": "sha-256"}, None),
    ("@ukp/my-adapter", {"namespace": "ukp", "name": "my-adapter"}, None),
    ("@Ukp/My_Adapter", {"namespace": "ukp", "name": "my_adapter"}, "@ukp/my_adapter"),
    ("@a/b.yaml", {"namespace": "a", "name": "b.yaml"}, None),
    ("@1/2", {"namespace": "1", "name": "2"}, None),
    ("sst-2:1", {"word": "sst-2", "version": "1"}, None),
    ("sst-2:1.0-RC1+build.5", {"word": "sst-2", "version": "1.0-RC1+build.5"}, None),
    ("SST-2:RC1", {"word": "sst-2", "version": "RC1"}, "sst-2:RC1"),
    ("sst-2:sha256", {"word": "sst-2", "version": "sha256"}, None),
    ("sst-2@ukp:01", {"word": "sst-2", "namespace": "ukp", "version": "01"}, None),
    ("@ukp/x:AdapterFusion", {"namespace": "ukp", "name": "x", "version": "AdapterFusion"}, None),
    (f"sst-2@sha256:{HEX}", {"word": "sst-2", "digest": f"sha256:{HEX}"}, None),
    (f"sst-2@SHA256:{HEX.upper()}", {"word": "sst-2", "digest": f"sha256:{HEX}"}, f"sst-2@sha256:{HEX}"),
    (f"sst-2@ukp@sha256:{HEX}", {"word": "sst-2", "namespace": "ukp", "digest": f"sha256:{HEX}"}, None),
    (f"@ukp/x:1@sha256:{HEX}", {"namespace": "ukp", "name": "x", "version": "1", "digest": f"sha256:{HEX}"}, None),
    ("ah::sst", {"hub": "ah", "word": "sst"}, None),
    ("AH::Sentiment/SST", {"hub": "ah", "task": "sentiment", "subtask": "sst"}, "ah::sentiment/sst"),
    ("my.hub-1::@ukp/x", {"hub": "my.hub-1", "namespace": "ukp", "name": "x"}, None),
    ("a@sha512:00", {"word": "a", "namespace": "sha512", "version": "00"}, None),
    (f"h::t/s@n:V@sha256:{HEX}",
     {"hub": "h", "task": "t", "subtask": "s", "namespace": "n", "version": "V", "digest": f"sha256:{HEX}"}, None),
    ("a" * 200, {"word": "a" * 200}, None),
]  # fmt: skip

#: (why, text)
INVALID: list[tuple[str, str]] = [
    ("empty", ""),
    ("blanks are not trimmed", " sst"),
    ("blanks are not trimmed", "sst "),
    ("a line end is not trimmed", "sst\n"),
    ("a line end is not trimmed", "sst\r\n"),
    ("a blank inside", "sst 2"),
    ("a tab inside", "sst\t2"),
    ("starts with a separator", "-sst"),
    ("starts with a separator", ".sst"),
    ("starts with a separator", "_sst"),
    ("starts with a plus", "+sst"),
    ("nothing but a separator", "-"),
    ("only an at sign", "@"),
    ("a namespace without a name", "@ukp"),
    ("a namespace without a name", "@ukp/"),
    ("a name without a namespace", "@/x"),
    ("three parts", "a/b/c"),
    ("three parts of a name", "@a/b/c"),
    ("an empty part", "a/"),
    ("an empty part", "/b"),
    ("an empty part", "a//b"),
    ("an empty namespace", "a@"),
    ("two namespaces", "a@b@c"),
    ("a direct reference with another namespace", "@a/b@c"),
    ("a slash in a namespace", "a@b/c"),
    ("an empty version", "a:"),
    ("two versions", "a:1:2"),
    ("the version before the namespace", "a:1@b"),
    ("a version that starts with a separator", "a:-1"),
    ("a version range", "a:^1"),
    ("a wildcard", "a:*"),
    ("a slash in a version", "a:1/2"),
    ("an empty hub", "::a"),
    ("nothing behind the hub", "a::"),
    ("two hubs", "a::b::c"),
    ("an address as a hub", "https://example.org::a"),
    ("an address", "https://example.org/a"),
    ("a reserved namespace", "a@sha256"),
    ("a reserved namespace", "@sha256/a"),
    ("a reserved namespace in another case", "@SHA256/a"),
    ("a digest of 63 digits", f"a@sha256:{HEX[:63]}"),
    ("a digest of 65 digits", f"a@sha256:{HEX}0"),
    ("a digest with a letter that is no digit", f"a@sha256:{HEX[:63]}g"),
    ("an empty digest", "a@sha256:"),
    ("a version behind the digest", f"a@sha256:{HEX}:1"),
    ("a namespace behind the digest", f"a@sha256:{HEX}@b"),
    ("two digests", f"a@sha256:{HEX}@sha256:{HEX}"),
    ("only a digest", f"@sha256:{HEX}"),
    ("only a version", ":1"),
    ("dots upwards", "../a"),
    ("dots upwards", "a/../b"),
    ("dots upwards", "@a/.."),
    ("a backslash", "a\\b"),
    ("percent signs are not decoded", "a%2fb"),
    ("a null character", "a\u0000"),
    ("a delete character", "a\u007f"),
    ("a letter that lower case would make ASCII", "\u212aelvin"),
    ("a letter that upper case would make ASCII", "\u017fst"),
    ("full width letters", "\uff53\uff53\uff54"),
    ("a full width at sign", "a\uff20b"),
    ("a division slash", "a\u2215b"),
    ("a ligature", "\ufb06-2"),
    ("a soft hyphen", "sst\u00ad-2"),
    ("a zero width space", "sst\u200b-2"),
    ("an en dash", "sst\u20132"),
    ("a Cyrillic letter", "s\u0455t"),
    ("a combining accent", "cafe\u0301"),
    ("an accent", "caf\u00e9"),
    ("a digit of another script", "sst-\u0662"),
    ("a comma", "a,b"),
    ("markup", "<a>"),
    ("a shell variable", "$HOME"),
    ("too long", "a" * 5000),
    ("too long, of a character that is not allowed", "\u00e9" * 5000),
]

#: (text, folded key)
FOLDED = [
    ("sst-2", "sst-2"),
    ("SST_2", "sst-2"),
    ("sst.2", "sst-2"),
    ("a--b__c..d", "a--b--c--d"),
    ("C++", "c++"),
    ("trailing-", "trailing-"),
    ("\u212a", "\u212a"),
    ("\u00c9", "\u00c9"),
]


def vectors() -> dict[str, Any]:
    return {
        "about": "valid: parts as parsed (absent ones are not listed) and the normal form. invalid: InvalidReference. "
        "folded: keys for comparison.",
        "valid": numbered(
            "reference", ({"text": text, "parts": parts, "normal": normal or text} for text, parts, normal in VALID)
        ),
        "invalid": numbered("no-reference", ({"why": why, "text": text} for why, text in INVALID)),
        "folded": numbered("folded", ({"text": text, "key": key} for text, key in FOLDED)),
    }


def main(folder: Path = CONFORMANCE) -> None:
    write(folder, "references/references.json", vectors())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else CONFORMANCE)
