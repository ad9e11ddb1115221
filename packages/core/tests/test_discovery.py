"""What discovery finds in models no family file describes, and how adapters act where tensors lie otherwise than [B, T, d]."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from packages.core.tests.shrunken import shrunken
from packages.core.tests.tiny import close, shake
from torch import Tensor

import adapterhub.core as ah
from adapterhub.core.checking import quiet
from adapterhub.core.dummy import run_small
from adapterhub.spec import InvalidConfigError, UnsupportedModelError


def adapted(model_type: str, *configs: str, **fixed: Any) -> Any:
    """A small model with an adapter of each config, `a`, `b` and so on."""
    model: Any = ah.init(shrunken(model_type, **fixed))
    for name, config in zip("abc", configs, strict=False):
        model.add_adapter(name, config=config)
    shake(model)
    return model


def last(model: Any, inputs: dict[str, Tensor], setup: Any = None, **options: Any) -> Tensor:
    model.active_adapters = setup
    with torch.no_grad():
        found = model(**inputs, **options)
    tensor: Tensor = found[0]
    return tensor


@pytest.mark.parametrize(
    ("model_type", "kinds"),
    [
        ("nllb-moe", {"attention": 4, "cross_attention": 2, "ffn": 4}),  # a dropout shared by both attentions
        ("wav2vec2-conformer", {"attention": 2, "ffn": 2}),  # four sublayers a layer, two of them feed-forward
        ("wav2vec2-bert", {"attention": 2, "ffn": 2}),
        ("mobilebert", {"ffn": 2}),  # the stream is only added to at the end of a layer
        ("ibert", {"attention": 2, "ffn": 2}),
    ],
)
def test_kinds_of_sublayers(model_type: str, kinds: dict[str, int]) -> None:
    layout = ah.pool_of(ah.init(shrunken(model_type))).layout
    assert Counter(place.kind for place in layout.sublayers) == kinds


@pytest.mark.parametrize("model_type", ["convnext", "poolformer"])
def test_an_axis_of_an_image_is_no_axis_of_features(model_type: str) -> None:
    with pytest.raises(UnsupportedModelError, match=r"\[batch, tokens, features\]"):
        ah.init(shrunken(model_type))


def test_layers_without_a_place_are_told() -> None:
    with pytest.warns(UserWarning, match="In 1 of the 4 layers of PegasusXModel"):
        ah.init(shrunken("pegasus_x"))


#: OPT flattens rows and tokens, FSMT has tokens first, Swin cuts images into windows
SHAPES = {"opt": {"flat"}, "fsmt": {"second"}, "swin": {"flat"}, "llama4_text": {"flat"}}


@pytest.mark.parametrize("model_type", SHAPES)
@pytest.mark.parametrize(
    "config",
    [
        "houlsby[reduction_factor=8,cross_adapter=true,use_gating=true]",
        "bapna",
        "lora[intermediate_lora=true]",
        "loreft",
    ],
)
def test_rows_are_told_apart_in_every_shape(model_type: str, config: str) -> None:
    model = adapted(model_type, config, config)
    assert set(ah.pool_of(model).layout.shaped.values()) >= SHAPES[model_type]
    with quiet(model):
        inputs = run_small(model, rows=3)
    names = ["a", None, "b"]
    together = last(model, inputs, adapter_names=names)
    for number, name in enumerate(names):
        alone = last(model, {key: value[number : number + 1] for key, value in inputs.items()}, name)
        torch.testing.assert_close(together[number], alone[0], rtol=1e-3, atol=1e-4)
    assert not torch.equal(together[0], last(model, inputs)[0])


def test_linear_maps_that_see_tokens_first() -> None:
    model = adapted("longformer", "lora", "lora", attention_window=4)
    ids = torch.arange(3, 27).view(3, 8)
    together = last(model, {"input_ids": ids}, adapter_names=["b", None, "a"])
    for number, name in enumerate(["b", None, "a"]):
        assert close(together[number], last(model, {"input_ids": ids[number : number + 1]}, name)[0])


def test_a_sequence_is_split_where_rows_and_tokens_are_one_axis() -> None:
    model = adapted("opt", "pfeiffer[leave_out=[0]]", "bapna[leave_out=[0]]")
    inputs = {"input_ids": torch.arange(3, 13).view(2, 5)}
    split = last(model, inputs, ah.Split("a", "b", splits=[2, 3]))
    for name, part in (("a", slice(0, 2)), ("b", slice(2, 5))):
        assert close(split[:, part], last(model, inputs, name)[:, part])


def test_maps_that_are_read_but_never_called_have_no_role() -> None:
    model: Any = ah.init(shrunken("wavlm"))  # its attention hands the weights of q_proj, … to a function of torch
    with pytest.raises(InvalidConfigError, match="nothing anywhere") as error:
        model.add_adapter("a", config="lora")
    assert error.value.hint is not None and "linear maps (down, up)" in error.value.hint


@pytest.mark.parametrize(
    ("model_type", "fixed"),
    [
        ("gpt_neox", {}),
        ("bloom", {}),
        ("falcon", {}),
        ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
        ("gpt_bigcode", {}),
        ("gpt_bigcode", {"multi_query": False, "num_key_value_heads": 4}),
    ],
)
def test_queries_keys_and_values_of_a_fused_map(model_type: str, fixed: dict[str, Any]) -> None:
    configs = [f"lora[attn_matrices=['{role}']]" for role in "qkv"]
    model = adapted(model_type, *configs, _attn_implementation="eager", **fixed)
    ids = torch.arange(3, 13).view(2, 5)

    def attention(setup: str | None) -> Tensor:
        model.active_adapters = setup
        with torch.no_grad():
            first: Tensor = model(input_ids=ids, output_attentions=True).attentions[0]
        return first

    assert not torch.equal(attention("a"), attention(None)), "queries decide what is attended to"
    assert not torch.equal(attention("b"), attention(None)), "and so do keys"
    assert torch.equal(attention("c"), attention(None)), "values do not"
    for name in "abc":
        expected = last(model, {"input_ids": ids}, name)
        model.merge_adapter(name)
        assert close(last(model, {"input_ids": ids}), expected, 1e-4)
        model.unmerge_adapter(name)


@pytest.mark.parametrize("model_type", ["OPTForCausalLM", "PegasusForConditionalGeneration"])
def test_embedded_text_where_no_module_gives_it(model_type: str) -> None:
    import transformers

    bare = {"OPTForCausalLM": "opt", "PegasusForConditionalGeneration": "pegasus"}[model_type]
    model: Any = ah.init(getattr(transformers, model_type)(shrunken(bare).config).eval())
    ids = torch.arange(3, 13).view(2, 5)
    bare_logits = model(input_ids=ids, labels=ids).logits
    model.add_adapter("a", config="pfeiffer+inv")
    for key, parameter in model.get_adapter("a").items():
        parameter.data += ("embedding" in key) * 0.1
    model.active_adapters = "a"
    changed = model(input_ids=ids, labels=ids).logits
    assert not torch.allclose(changed, bare_logits)
    model.add_adapter("prompt", config="prompt[prompt_length=3]")
    model.active_adapters = "prompt"
    assert not torch.allclose(model(input_ids=ids, labels=ids).logits[:, -5:], bare_logits)
