"""Adapter configs: reading them, their identity, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapterhub.spec import (
    BottleneckConfig,
    DoubleSeqBnConfig,
    InvalidConfigError,
    ParBnConfig,
    PfeifferConfig,
    SeqBnConfig,
    UnionConfig,
    load_preset,
    parse_config,
    preset_names,
)
from adapterhub.spec.adapters_config import from_adapters, to_adapters
from adapterhub.spec.presets import preset_documents


def test_every_preset_has_a_citation_a_description_and_a_config_that_survives_json() -> None:
    for name, document in preset_documents().items():
        assert document["citation"] and document["description"], name
        config = load_preset(name)
        again = parse_config(json.loads(json.dumps(config.expand())))
        assert again == config and again.config_id == config.config_id


def test_all_names_promised_by_the_paper_and_the_peers_are_presets() -> None:
    promised = (
        "pfeiffer seq_bn houlsby double_seq_bn bapna parallel par_bn scaled_par_bn pfeiffer+inv houlsby+inv compacter"
        " compacter++ adapter_plus lora dora ia3 prefix prompt loreft noreft direft mam unipelt"
    )
    assert set(promised.split()) <= set(preset_names(aliases=True))


def test_old_and_new_names_are_one_config() -> None:
    for old, new in (("pfeiffer", "seq_bn"), ("houlsby", "double_seq_bn"), ("parallel", "par_bn")):
        assert load_preset(old).config_id == load_preset(new).config_id
    assert SeqBnConfig(reduction_factor=8) == PfeifferConfig(reduction_factor=8)
    assert (DoubleSeqBnConfig(), ParBnConfig()) == (load_preset("houlsby"), load_preset("parallel"))


@pytest.mark.parametrize(
    ("preset", "identity"),
    [
        ("seq_bn", "9076f36a74755ac4"),
        ("double_seq_bn", "b1017368d7a97b11"),
        ("par_bn", "211b85d66ae909db"),
        ("seq_bn_inv", "9ed5b5a29de19b71"),
        ("compacter", "934efc0c1022a56f"),
        ("lora", "625403edad0bf919"),
    ],
)
def test_ids_of_the_2020_hub_are_reproduced(preset: str, identity: str) -> None:
    assert load_preset(preset).legacy_config_id == identity


def test_configs_the_peers_cannot_express_have_no_legacy_id() -> None:
    assert load_preset("direft").legacy_config_id is None
    assert load_preset("pfeiffer", bottleneck_size=8).legacy_config_id is None


def test_whole_floats_and_integers_are_one_identity_but_other_values_are_not() -> None:
    assert PfeifferConfig(reduction_factor=2.0).config_id == PfeifferConfig(reduction_factor=2).config_id
    assert PfeifferConfig(reduction_factor=2.5).config_id != PfeifferConfig(reduction_factor=2).config_id
    assert PfeifferConfig(reduction_factor={0: 2, "default": 4}) == PfeifferConfig(
        reduction_factor={"default": 4, "0": 2.0}
    )


def test_an_explicit_false_is_part_of_the_identity() -> None:
    assert PfeifferConfig(original_ln_after=False).config_id != PfeifferConfig().config_id


def test_preset_strings_take_overrides_and_join_to_unions() -> None:
    assert parse_config("pfeiffer[reduction_factor=12]").reduction_factor == 12  # type: ignore[attr-defined]
    assert parse_config("pfeiffer[leave_out=[0, 1], use_gating=true]").leave_out == (0, 1)  # type: ignore[attr-defined]
    union = parse_config("parallel[reduction_factor=4]|lora[r=4,attn_matrices=['q','k']]")
    assert isinstance(union, UnionConfig)
    assert [member.method for member in union.configs] == ["bottleneck", "lora"]
    assert union.configs[1].attn_matrices == ("q", "k")


def test_a_config_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"method": "bottleneck", "reduction_factor": 8}))
    assert parse_config(str(path)) == BottleneckConfig(reduction_factor=8)
    path.write_text("{")
    with pytest.raises(InvalidConfigError, match="no JSON"):
        parse_config(path)


def test_bottleneck_size_replaces_the_reduction_factor() -> None:
    assert load_preset("pfeiffer", bottleneck_size=24).reduction_factor is None  # type: ignore[attr-defined]
    with pytest.raises(InvalidConfigError, match="exclude each other"):
        load_preset("pfeiffer", bottleneck_size=24, reduction_factor=2)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("pfeifer", "no adapter preset 'pfeifer'.*Did you mean pfeiffer"),
        ("pfeiffer[reduction_factor=0]", "/reduction_factor: .*greater than 0"),
        ("pfeiffer[reduction_factor]", "no field=value"),
        ("pfeiffer[", "no preset string"),
        ("pfeiffer[depth=3]", "/depth: Extra inputs"),
        ({"method": "bottlenek"}, "bottlenek"),
        ({"method": "bottleneck", "use_gating": 1}, "/use_gating"),
        ({"method": "bottleneck", "scaling": True}, "/scaling"),
        ({"method": "bottleneck", "non_linearity": "reluu"}, "no known non-linearity"),
        ({"method": "bottleneck", "output_adapter": False}, "placed nowhere"),
        ({"method": "bottleneck", "phm_layer": True, "init_weights": "houlsby"}, "not defined for PHM"),
        ({"method": "bottleneck", "reduction_factor": {"first": 2}}, "or 'default', not first"),
        ({"method": "bottleneck", "reduction_factor": {"05": 2, "default": 4}}, "or 'default', not 05"),
        ({"method": "reft", "prefix_positions": 0}, "no position is changed"),
        ({"method": "prompt", "prompt_init": "from_string"}, "prompt_init_text"),
        ({"architecture": "vera"}, "architecture 'vera'"),
        (3, "cannot be made from int"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_place(config: object, told: str) -> None:
    with pytest.raises(InvalidConfigError, match=told):
        parse_config(config)


def test_every_problem_is_listed_at_once() -> None:
    with pytest.raises(InvalidConfigError) as caught:
        parse_config({"method": "lora", "r": 0, "alpha": "x", "target": 1})
    assert {problem["pointer"] for problem in caught.value.details["problems"]} == {"/r", "/alpha", "/target"}


def test_problems_between_fields_are_listed_beside_those_of_fields() -> None:
    with pytest.raises(InvalidConfigError) as caught:
        parse_config({"method": "bottleneck", "output_adapter": False, "dropout": 2, "reductoin_factor": 4})
    told = {problem["pointer"]: problem["message"] for problem in caught.value.details["problems"]}
    assert set(told) == {"/dropout", "/reductoin_factor", ""}
    assert "placed nowhere" in told[""]
    with pytest.raises(InvalidConfigError) as caught:
        parse_config({"method": "bottleneck", "reduction_factor": None, "bottleneck_size": 0})
    assert [problem["pointer"] for problem in caught.value.details["problems"]] == ["/bottleneck_size"]


def test_union_members_at_the_same_place_are_refused() -> None:
    with pytest.raises(InvalidConfigError, match="same places"):
        parse_config("pfeiffer|pfeiffer")
    with pytest.raises(InvalidConfigError, match="same places"):
        parse_config("pfeiffer+inv|houlsby+inv[output_adapter=false]")
    assert len(parse_config("pfeiffer|houlsby[output_adapter=false]").configs) == 2  # type: ignore[attr-defined]


def test_configs_of_the_peers_come_back_as_they_were() -> None:
    for name in preset_names():
        if name in {"direft"}:
            continue
        config = load_preset(name)
        assert from_adapters(to_adapters(config), version="adapters.1.3.0") == config, name


def test_configs_of_adapter_transformers_keep_their_meaning() -> None:
    old = {
        "non_linearity": "gelu",
        "reduction_factor": 4,
        "mh_adapter": False,
        "output_adapter": True,
        "original_ln_before": True,
        "invertible_adapter": {"block_type": "nice", "non_linearity": "relu", "reduction_factor": 2},
    }
    config = from_adapters(old)
    assert isinstance(config, BottleneckConfig)
    assert config.non_linearity == "gelu_new"
    assert (config.inv_adapter, config.inv_adapter_reduction_factor) == ("nice", 2)
    lora = from_adapters({"architecture": "lora", "r": 4, "alpha": 10}, version="adapters.1.0.1")
    assert lora.alpha == 4  # type: ignore[attr-defined]
    assert from_adapters({"architecture": "lora", "r": 4, "alpha": 10}, version="adapters.1.3.0").alpha == 10  # type: ignore[attr-defined]


def test_configs_are_immutable_and_hashable() -> None:
    config = load_preset("pfeiffer")
    with pytest.raises(Exception, match="frozen"):
        config.reduction_factor = 3  # type: ignore[attr-defined]
    assert len({config, load_preset("seq_bn")}) == 1
    assert config.replace(reduction_factor=3).reduction_factor == 3  # type: ignore[attr-defined]
