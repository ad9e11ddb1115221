"""Vectors of canonical JSON (SPEC.md 9.1) and of config ids (9.2 to 9.4).

The canonical texts below are written by hand from RFC 8785 and ECMA-262, not computed; only digests are.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from writing import CONFORMANCE, numbered, write

from adapterhub.spec import load_preset, parse_config
from adapterhub.spec.presets import preset_documents

#: (why, JSON text, canonical text)
VALID = [
    ("a whole number is one number however it is written", "[2, 2.0, 2e0, 20e-1, 0.2E1]", "[2,2,2,2,2]"),
    ("negative zero is zero", "[-0, -0.0, 0.0, -0e5]", "[0,0,0,0]"),
    ("fractions keep the shortest digits that read back", "[0.1, 1.10, 0.30000000000000004, 333333333.33333329]",
     "[0.1,1.1,0.30000000000000004,333333333.3333333]"),
    ("large numbers", "[1e20, 1e21, 1e23, 123456789012345680000, 1E+30]", "[100000000000000000000,1e+21,1e+23,123456789012345680000,1e+30]"),
    ("small numbers", "[1e-5, 1e-6, 1e-7, 0.000001, 0.00000012]", "[0.00001,0.000001,1e-7,0.000001,1.2e-7]"),
    ("the ends of the double range", "[5e-324, 1.7976931348623157e308, 2.2250738585072014e-308]",
     "[5e-324,1.7976931348623157e+308,2.2250738585072014e-308]"),
    ("the largest integers every reader holds", "[9007199254740991, -9007199254740991, 9007199254740992]",
     "[9007199254740991,-9007199254740991,9007199254740992]"),
    ("numbers with many digits round to the nearest double", "[4.35, 0.1234567890123456789, 1.5]", "[4.35,0.12345678901234568,1.5]"),
    ("literals", "[null, true, false]", "[null,true,false]"),
    ("members are sorted by name", '{"b": 1, "a": 2, "aa": 3, "A": 4, "": 5}', '{"":5,"A":4,"a":2,"aa":3,"b":1}'),
    ("digits sort as text", '{"10": 1, "9": 2, "1": 3}', '{"1":3,"10":1,"9":2}'),
    ("names are sorted by UTF-16 code units, not by code points",
     '{"\\ufb33": 1, "\\ud83d\\ude00": 2, "\\u20ac": 3, "\\u0080": 4, "\\u00f6": 5, "1": 6, "\\r": 7}',
     '{"\\r":7,"1":6,"\u0080":4,"\u00f6":5,"\u20ac":3,"\U0001f600":2,"\ufb33":1}'),
    ("sorting reaches into lists", '[{"b": [{"d": 1, "c": 2}], "a": {}}]', '[{"a":{},"b":[{"c":2,"d":1}]}]'),
    ("white space goes", ' \t\r\n{ "a" : [ 1 , 2 ] } \n', '{"a":[1,2]}'),
    ("empty values", '[{}, [], "", [[]]]', '[{},[],"",[[]]]'),
    ("control characters have their short escapes, or \\u00xx in lower case",
     '"\\u0000\\u0008\\t\\n\\u000b\\f\\r\\u001F\\u007f"', '"\\u0000\\b\\t\\n\\u000b\\f\\r\\u001f\u007f"'),
    ("only quotation mark and backslash are escaped besides", '"\\"\\\\\\/\\u003c\\u0027"', '"\\"\\\\/<\'"'),
    ("text is kept as it is, not normalised", '["\\u00e9", "e\\u0301", "\\u2028", "\\ufeff"]', '["\u00e9","e\u0301","\u2028","\ufeff"]'),
    ("pairs of surrogates are one character", '"\\ud834\\udd1e"', '"\U0001d11e"'),
    ("a config", '{"spec_version": "1.0", "reduction_factor": 2.0, "method": "bottleneck"}',
     '{"method":"bottleneck","reduction_factor":2,"spec_version":"1.0"}'),
    ("a scalar", "3.50", "3.5"),
    ("deep nesting", "[" * 30 + "1" + "]" * 30, "[" * 30 + "1" + "]" * 30),
]  # fmt: skip

#: (why, JSON text): has no canonical form
INVALID = [
    ("a name comes twice", '{"a": 1, "a": 1}'),
    ("a name comes twice once unescaped", '{"a": 1, "\\u0061": 2}'),
    ("a lone high surrogate", '"\\ud800"'),
    ("a lone low surrogate as a name", '{"\\udc00": 1}'),
    ("not a number", "NaN"),
    ("infinity", "[-Infinity]"),
    ("beyond the double range", "1e400"),
    ("an integer no double holds", "9007199254740993"),
    ("text behind the value", "{} {}"),
    ("a comma too many", "[1,]"),
    ("a comment", "[1] // one"),
    ("single quotes", "{'a': 1}"),
    ("a leading zero", "01"),
    ("a control character in a text", '"a\tb"'),
    ("nothing", ""),
]


def canonical_vectors() -> dict[str, Any]:
    valid = [
        {"why": why, "json": text, "canonical": canonical, "sha256": hashlib.sha256(canonical.encode()).hexdigest()}
        for why, text, canonical in VALID
    ]
    return {
        "about": "json: the input text. canonical: its RFC 8785 form; sha256: of the form's UTF-8 bytes. invalid: no form.",
        "valid": numbered("canonical", valid),
        "invalid": numbered("no-canonical", [{"why": why, "json": text} for why, text in INVALID]),
    }


#: (why, config as JSON text); texts of one group mean the same
SAME = [
    ("pfeiffer", ['{"using": "pfeiffer"}', '{"using": "seq_bn"}', '{"using": "pfeiffer", "reduction_factor": 16.0}',
                  '{"reduction_factor": 1.6e1, "using": "pfeiffer", "leave_out": [], "inv_adapter": null}']),
    ("pfeiffer, factor 2", ['{"using": "pfeiffer", "reduction_factor": 2}', '{"using": "pfeiffer", "reduction_factor": 2.0}',
                            '{"using": "pfeiffer", "reduction_factor": 20e-1}']),
    ("pfeiffer, factor 1.5", ['{"using": "pfeiffer", "reduction_factor": 1.5}', '{"using":"pfeiffer","reduction_factor":1.50}']),
    ("pfeiffer, bottleneck size 48", ['{"using": "pfeiffer", "bottleneck_size": 48}',
                                      '{"using": "pfeiffer", "bottleneck_size": 48, "reduction_factor": null}']),
    ("pfeiffer, layers left out", ['{"using": "pfeiffer", "leave_out": [0, 1, 11]}', '{"using": "pfeiffer", "leave_out": [11, 1, 0, 1]}',
                                   '{"using": "pfeiffer", "leave_out": [1.0, 0, 11]}']),
    ("a factor for each layer", ['{"using": "houlsby", "reduction_factor": {"default": 16, "2": 8, "10": 4.0}}',
                                 '{"using": "houlsby", "reduction_factor": {"10": 4, "2": 8.0, "default": 16}}']),
    ("houlsby with a scaling", ['{"using": "houlsby", "scaling": 0.5}', '{"using": "houlsby", "scaling": 5e-1}']),
    ("lora", ['{"using": "lora"}', '{"using": "lora", "r": 8.0}']),
    ("lora of another rank", ['{"using": "lora", "r": 4, "alpha": 16}', '{"alpha": 16.0, "r": 4, "using": "lora"}']),
]  # fmt: skip


def config_vectors() -> dict[str, Any]:
    groups = [*SAME, *((name, [json.dumps({"using": name})]) for name in preset_documents())]
    vectors = []
    for why, texts in groups:
        for text in texts:
            fields = json.loads(text)
            config = load_preset(fields.pop("using"), **fields)
            assert parse_config(config.expand()) == config
            vector = {"why": why, "json": text, "expanded": config.expand(), "config_id": config.config_id}
            if config.legacy_config_id is not None:
                vector["legacy_config_id"] = config.legacy_config_id
            vectors.append(vector)
    return {
        "about": "json: a config as {using, overrides}. expanded and config_id: SPEC.md 9.2 and 9.3. Equal ids in a group "
        "(why) mean equal configs. legacy_config_id (9.4) need not be reproduced.",
        "valid": numbered("config-id", vectors),
    }


def main(folder: Path = CONFORMANCE) -> None:
    write(folder, "canonical/canonical.json", canonical_vectors())
    write(folder, "canonical/config_ids.json", config_vectors())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else CONFORMANCE)
