"""Attaching changes nothing, detaching leaves nothing."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from packages.core.tests.tiny import close, ids, run, tiny, with_adapters

import adapterhub.core as ah
from adapterhub.spec import AdapterHubError, AdapterNotFoundError, InvalidConfigError, UnsupportedModelError
from adapterhub.spec.family import ModelFamily, load_family

MODELS = [
    "BertForSequenceClassification",
    "DistilBertModel",
    "GPT2LMHeadModel",
    "LlamaForCausalLM",
    "BartModel",
    "T5Model",
]


def _inputs(model: Any) -> dict[str, torch.Tensor]:
    return ids() | ({"decoder_input_ids": ids(seed=4)["input_ids"]} if model.config.is_encoder_decoder else {})


@pytest.mark.parametrize("name", MODELS)
def test_outputs_stay_bitwise_equal_and_come_back(name: str) -> None:
    model = tiny(name)
    stock, keys, inputs = type(model), list(model.state_dict()), _inputs(model)
    before = run(model, inputs)
    assert ah.init(model) is model
    assert isinstance(model, stock)
    assert torch.equal(run(model, inputs), before)
    with_adapters(model, a="pfeiffer[cross_adapter=true]", b="houlsby")
    assert torch.equal(run(model, inputs), before), "adapters that are not active change nothing"
    assert not close(run(model, inputs, "a"), before)
    model.train_adapter("b")
    model.eval()
    assert torch.equal(run(model, inputs, None), before)
    ah.detach(model)
    assert type(model) is stock
    assert list(model.state_dict()) == keys
    assert torch.equal(run(model, inputs), before)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_parameters_frozen_by_the_user_stay_frozen_after_detach() -> None:
    model: Any = tiny()
    model.embeddings.requires_grad_(False)
    with_adapters(model, a="pfeiffer").train_adapter("a")
    ah.detach(model)
    assert not any(parameter.requires_grad for parameter in model.embeddings.parameters())
    assert all(parameter.requires_grad for parameter in model.encoder.parameters())


def test_hooks_are_there_only_while_a_plan_uses_them() -> None:
    model = with_adapters(tiny(), a="pfeiffer", b="houlsby")

    def hooks() -> int:
        return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())

    assert hooks() == 0
    model.active_adapters = "a"
    one = hooks()
    model.active_adapters = "b"
    assert hooks() == 2 * one > 0
    model.active_adapters = ah.Stack("a", "b")
    model.active_adapters = "a"
    assert hooks() == one
    model.active_adapters = None
    assert hooks() == 0


def test_copies_and_pickles_are_independent_models() -> None:
    model = with_adapters(tiny(), a="pfeiffer", b="houlsby")
    model.active_adapters = ah.Stack("a", "b")
    expected = run(model)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(twin).__name__ == "BertModel"
        assert torch.equal(run(twin), expected)
        for parameter in twin.get_adapter("a").values():
            parameter.data.zero_()
        assert torch.equal(run(model), expected), "the copy shares nothing with the original"
        assert not torch.equal(run(twin), expected)
        twin.active_adapters = "b"
        twin.delete_adapter("a")
        assert model.adapters == ("a", "b")
        ah.detach(twin)


def test_save_pretrained_names_the_stock_class(tmp_path: Any) -> None:
    model = with_adapters(tiny(), a="pfeiffer")
    model.save_pretrained(tmp_path)
    assert '"BertModel"' in (tmp_path / "config.json").read_text()


def test_state_dict_holds_adapters_and_loads_back() -> None:
    model = with_adapters(tiny(), a="pfeiffer")
    model.active_adapters = "a"
    expected, state = run(model), {key: value.clone() for key, value in model.state_dict().items()}
    for parameter in model.get_adapter("a").values():
        parameter.data.zero_()
    model.load_state_dict(state)
    assert torch.equal(run(model), expected)


@pytest.mark.parametrize(
    "name", ["sentiment/sst-2@ukp", "glue.sst2", "train", "forward", "weight", "lora", "ä ö", "a,b"]
)
def test_any_text_may_be_a_name(name: str) -> None:
    model = with_adapters(tiny(), **{name: "pfeiffer"})
    bare = run(model)
    assert not close(run(model, setup=name), bare)
    assert all(key.startswith("encoder.") for key in model.get_adapter(name))
    model.delete_adapter(name)
    assert torch.equal(run(model), bare)


def test_mistakes_are_told() -> None:
    model = with_adapters(tiny(), sst="pfeiffer")
    with pytest.raises(InvalidConfigError, match="already has an adapter 'sst'"):
        model.add_adapter("sst", config="pfeiffer")
    with pytest.raises(InvalidConfigError, match="name"):
        model.add_adapter("", config="pfeiffer")
    with pytest.raises(AdapterNotFoundError) as error:
        model.active_adapters = "sts"
    assert error.value.suggestions == ["sst"]
    with pytest.raises(AdapterNotFoundError):
        model.active_adapters = ah.Fuse("sst", "sst")
    with pytest.raises(InvalidConfigError, match="phm_dim"):
        model.add_adapter("odd", config="compacter[phm_dim=7]")
    assert model.adapters == ("sst",)
    with pytest.raises(UnsupportedModelError):
        ah.init(torch.nn.Linear(2, 2))
    with pytest.raises(AdapterHubError, match="init"):
        ah.detach(tiny())


def test_a_family_that_does_not_hold_is_refused() -> None:
    wrong = load_family("bert").model_dump()
    sublayer = wrong["towers"][0]["sublayers"]["ffn"]
    sublayer["output"] = "intermediate.dense"
    with pytest.raises(UnsupportedModelError, match=r"encoder\.0\.ffn"):
        ah.init(tiny(), family=ModelFamily.model_validate(wrong))
    sublayer["output"] = "output.dense"  # before dropout: the same numbers in evaluation, so it holds
    ah.init(tiny(), family=ModelFamily.model_validate(wrong))


def test_init_touches_neither_random_state_nor_modes() -> None:
    model = tiny()
    model.encoder.layer[1].train()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    ah.init(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.encoder.layer[1].training and not model.encoder.layer[0].training


def test_new_parameters_follow_the_seed_and_leave_it_alone() -> None:
    def made(**options: Any) -> dict[str, torch.Tensor]:
        model = with_adapters(tiny())
        model.add_adapter("a", config="houlsby", **options)
        return {key: value.detach().clone() for key, value in model.get_adapter("a").items()}

    torch.manual_seed(3)
    one = made(init_weights_seed=11)
    torch.manual_seed(4)
    state = torch.get_rng_state()
    other = made(init_weights_seed=11)
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert not torch.equal(one["encoder.0.ffn.down.weight"], one["encoder.1.ffn.down.weight"])
    del state
    torch.manual_seed(8)
    one = made()
    torch.manual_seed(8)
    other = made()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_detaching_inside_a_setup_leaves_nothing_either() -> None:
    model = with_adapters(tiny(), a="pfeiffer", p="prefix", l="lora")
    stock = tiny()
    with ah.AdapterSetup(ah.Stack("a", "p", "l")):
        run(model)
        ah.detach(model)
        assert torch.equal(run(model), run(stock))
    for (name, module), (_, other) in zip(model.named_modules(), stock.named_modules(), strict=True):
        assert set(module.__dict__) == set(other.__dict__), name
        assert not module._forward_hooks and not module._forward_pre_hooks, name
    assert model.config.to_dict() == stock.config.to_dict()
    assert model.config._attn_implementation == stock.config._attn_implementation
