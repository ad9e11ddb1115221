"""Every preset on every kind of model: it trains, survives saving, copies and pickles, and leaves without a trace."""

from __future__ import annotations

import copy
import functools
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from packages.core.tests.shrunken import shrunken
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.models.t5 import modeling_t5

import adapterhub.core as ah
from adapterhub.spec import InvalidConfigError, preset_names

_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def _bert() -> Any:
    return BertModel(
        BertConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
    )


def _gpt2() -> Any:
    return GPT2LMHeadModel(GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=4, n_positions=64, **_TOKENS))


def _llama() -> Any:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=60,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=48,
            **_TOKENS,
        )
    )


def _bart() -> Any:
    return BartForConditionalGeneration(
        BartConfig(
            vocab_size=60,
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            max_position_embeddings=64,
            decoder_start_token_id=2,
            forced_eos_token_id=None,
            **_TOKENS,
        )
    )


def _t5() -> Any:
    return T5ForConditionalGeneration(
        T5Config(vocab_size=60, d_model=32, d_kv=8, num_heads=4, d_ff=48, num_layers=2, decoder_start_token_id=0)
    )


MODELS = {"bert": _bert, "gpt2": _gpt2, "llama": _llama, "bart": _bart, "t5": _t5}
#: sizes that tiny models can be divided by
SMALL = {"compacter": "compacter[reduction_factor=4]", "compacter++": "compacter++[reduction_factor=4]"}
PRESETS = [SMALL.get(name, name) for name in preset_names()] + [
    "lora[attn_matrices=['q','k','v','o'],intermediate_lora=true,output_lora=true,use_gating=true]",
    "ia3[ffn='down_input']",
    "prefix[use_gating=true,shared_gating=false,prefix_length=3]",
]


@pytest.fixture(params=sorted(MODELS))
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    made = MODELS[request.param]().eval()
    return ah.init(made)


def _refused(model: Any, preset: str) -> bool:
    """Where the T5 of this release of transformers goes past the attention interface, prefix tuning on it is refused."""
    prefixes = preset.startswith(("prefix", "mam", "unipelt"))
    if model.config.model_type != "t5" or not prefixes or hasattr(modeling_t5, "ALL_ATTENTION_FUNCTIONS"):
        return False
    with pytest.raises(InvalidConfigError, match="attention interface"):
        model.add_adapter("a", config=preset)
    return True


def _inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 60, (3, 7), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def _run(model: Any, **extra: Any) -> torch.Tensor:
    inputs = _inputs()
    if model.config.is_encoder_decoder:
        extra.setdefault("decoder_input_ids", inputs["input_ids"][:, :4])
    found: torch.Tensor = model(**inputs, **extra)[0]
    return found


def _train_a_step(model: Any, name: str) -> None:
    model.train_adapter(name)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.05)
    for _ in range(2):  # where a matrix starts at zero, the other one moves in the second step only
        optimizer.zero_grad()
        _run(model).float().square().mean().backward()
        optimizer.step()
    model.eval()


@pytest.mark.parametrize("preset", PRESETS)
def test_train_save_load_copy_delete(model: Any, preset: str, tmp_path: Path) -> None:
    with torch.no_grad():
        bare = _run(model)
    keys = list(model.state_dict())
    if _refused(model, preset):
        return
    model.add_adapter("a", config=preset)
    _train_a_step(model, "a")
    with torch.no_grad():
        trained = _run(model)
        assert trained.shape != bare.shape or not torch.allclose(trained, bare, atol=1e-6)
        assert torch.equal(_run(copy.deepcopy(model)), trained)
        assert torch.equal(_run(pickle.loads(pickle.dumps(model))), trained)
        model.save_adapter(str(tmp_path / "a"), "a")
        model.delete_adapter("a")
        assert torch.equal(_run(model), bare)
        model.load_adapter(str(tmp_path / "a"), load_as="again")
        model.set_active_adapters("again")
        assert torch.equal(_run(model), trained)
        ah.detach(model)
        assert torch.equal(_run(model), bare)
    assert list(model.state_dict()) == keys


@pytest.mark.parametrize(
    "preset", ["lora", "dora", "ia3", "prefix_flat", "loreft", "prompt", "pfeiffer", "mam", "pfeiffer+inv"]
)
@pytest.mark.parametrize("name", ["gpt2", "llama", "bart", "t5"])
def test_generation_with_a_cache_is_generation_without(name: str, preset: str) -> None:
    torch.manual_seed(0)
    model = ah.init(MODELS[name]().eval())
    if _refused(model, preset):
        return
    model.add_adapter("a", config=preset)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "adapterhub" in key:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)) * 0.1)
    model.set_active_adapters("a")
    options = {"max_new_tokens": 6, "do_sample": False, "min_new_tokens": 6}
    options |= {"return_dict_in_generate": True, "output_logits": True}
    inputs = _inputs()
    if not model.config.is_encoder_decoder:  # padding goes to the left of what is to be continued
        inputs = {key: value.flip(1) for key, value in inputs.items()}
    cached = _logits(model.generate(**inputs, use_cache=True, **options))
    assert torch.allclose(cached, _logits(model.generate(**inputs, use_cache=False, **options)), atol=1e-4)
    with ah.AdapterSetup(None):
        assert not torch.allclose(cached, _logits(model.generate(**inputs, **options)), atol=1e-4)


def _logits(generated: Any) -> torch.Tensor:
    return torch.stack(generated.logits)


def test_lora_in_a_stack_adds_the_updates() -> None:
    model = ah.init(_bert().eval())
    for name in ("a", "b"):
        model.add_adapter(name, config="lora[init_weights='bert']")
    layer = model.encoder.layer[0].attention.self.query
    with torch.no_grad():
        outputs = {}
        handle = layer.register_forward_hook(lambda module, args, output: outputs.__setitem__("q", output))
        for setup in (None, "a", "b", ah.Stack("a", "b")):
            model.set_active_adapters(setup)
            _run(model)
            outputs[str(setup)] = outputs["q"]
        handle.remove()
    bare, a, b, both = (outputs[key] for key in ("None", "a", "b", "Stack('a', 'b')"))
    assert torch.allclose(both - bare, (a - bare) + (b - bare), atol=1e-6)


def test_lora_targets_name_maps_by_the_end_of_their_path() -> None:
    model = ah.init(_bert())
    model.add_adapter("a", config="lora[targets=['attention.output.dense', 'pooler.dense']]")
    touched = {key.rpartition(".adapterhub")[0] for key, _ in model.named_parameters() if "adapterhub" in key}
    assert touched == {"encoder.layer.0", "encoder.layer.1", ""}
    with pytest.raises(InvalidConfigError, match="fits the target 'querry'"):
        model.add_adapter("b", config="lora[targets=['querry']]")


def test_dora_starts_as_the_bare_model_and_keeps_the_magnitude_when_the_direction_moves() -> None:
    model = ah.init(_bert().eval())
    with torch.no_grad():
        bare = _run(model)
        model.add_adapter("a", config="dora")
        model.set_active_adapters("a")
        assert torch.allclose(_run(model), bare, atol=1e-6)


def test_the_projection_of_loreft_stays_orthonormal_under_weight_decay() -> None:
    model = ah.init(_bert())
    model.add_adapter("a", config="loreft[r=2]")
    model.train_adapter("a")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.5)
    for _ in range(5):
        optimizer.zero_grad()
        _run(model).square().mean().backward()
        optimizer.step()
    from adapterhub.core.methods.reft import orthonormal_rows

    for key, parameter in model.named_parameters():
        if key.endswith("projection"):
            rows = orthonormal_rows(parameter.detach())
            assert torch.allclose(rows @ rows.T, torch.eye(2), atol=1e-5)


def test_a_prefix_is_seen_under_every_attention_function() -> None:
    torch.manual_seed(0)
    stock = _bert().eval()
    outputs = []
    for choice in ("eager", "sdpa"):
        model = BertModel(stock.config).eval()
        model.load_state_dict(stock.state_dict())
        model.set_attn_implementation(choice)
        ah.init(model)
        torch.manual_seed(5)
        model.add_adapter("a", config="prefix_flat[prefix_length=4]")
        model.set_active_adapters("a")
        with torch.no_grad():
            outputs.append(_run(model))
        model.set_active_adapters(None)
        assert model.config._attn_implementation == choice
    assert torch.allclose(outputs[0], outputs[1], atol=1e-5)


def test_rows_with_and_without_a_prefix_in_one_batch() -> None:
    torch.manual_seed(0)
    model = ah.init(_bert().eval())
    model.add_adapter("short", config="prefix_flat[prefix_length=2]")
    model.add_adapter("long", config="prefix_flat[prefix_length=5]")
    with torch.no_grad():
        mixed = model(**_inputs(), adapter_names=["short", None, "long"])[0]
        for row, name in enumerate(["short", None, "long"]):
            with ah.AdapterSetup(name):
                assert torch.allclose(mixed[row], _run(model)[row], atol=1e-5)


@pytest.mark.parametrize("kind", ["gptj", "codegen"])
@torch.no_grad()
def test_a_prefix_where_attention_is_a_method_of_its_own(kind: str) -> None:
    """GPT-J's attention looks up no function by name; by hand: softmax over [prefix; text] times [prefix; text]."""
    model: Any = shrunken(kind)
    ids = torch.arange(3, 13).view(2, 5)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    plain = model(input_ids=ids, attention_mask=mask).last_hidden_state
    ah.init(model)
    model.add_adapter("a", config="prefix_flat[prefix_length=3]")
    values = model.get_adapter("a")["shared.decoder_attention.values"]
    values.copy_(torch.randn(values.shape, generator=torch.Generator().manual_seed(1)))
    model.active_adapters = "a"
    got = model(input_ids=ids, attention_mask=mask).last_hidden_state
    steps = model(input_ids=ids[:1, :4], use_cache=True)
    last = model(input_ids=ids[:1, 4:], past_key_values=steps.past_key_values).last_hidden_state
    torch.testing.assert_close(last[0, 0], got[0, 4], rtol=0, atol=1e-5)
    copied = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    assert torch.equal(copied(input_ids=ids, attention_mask=mask).last_hidden_state, got)
    ah.detach(model)
    assert torch.equal(model(input_ids=ids, attention_mask=mask).last_hidden_state, plain)
    attention = type(model.h[0].attn)

    def by_hand(layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> Any:
        rows, heads, _, size = key.shape
        keys, others = (
            part.view(3, heads, size).transpose(0, 1).expand(rows, -1, -1, -1)
            for part in values[:, 2 * layer * heads * size : 2 * (layer + 1) * heads * size].chunk(2, -1)
        )
        scores = query.float() @ torch.cat((keys, key), 2).transpose(-1, -2) / size**0.5
        shares = (scores + torch.nn.functional.pad(mask, (3, 0))).softmax(-1)
        return shares @ torch.cat((others, value), 2), shares

    for layer, block in enumerate(model.h):
        assert isinstance(block.attn, attention)
        block.attn._attn = functools.partial(by_hand, layer)
    torch.testing.assert_close(model(input_ids=ids, attention_mask=mask).last_hidden_state, got, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "options"), [("deberta", {"talking_head": True}), ("deberta", {}), ("deberta-v2", {})]
)
@torch.no_grad()
def test_a_prefix_where_scores_of_positions_are_added_to_those_of_contents(kind: str, options: dict[str, Any]) -> None:
    """DeBERTa: without its prefix the attention is transformers' own; a prefix is scored by its content, q · k / √(3 n)."""
    model: Any = shrunken(kind, relative_attention=True, pos_att_type=["c2p", "p2c"], **options)
    attention = model.encoder.layer[0].attention.self
    ids = torch.arange(3, 13).view(2, 5)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    plain = model(input_ids=ids, attention_mask=mask, output_attentions=True)
    ah.init(model)
    model.add_adapter("a", config="prefix_flat[prefix_length=3]")
    values = model.get_adapter("a")["shared.encoder_attention.values"]
    values.copy_(torch.randn(values.shape, generator=torch.Generator().manual_seed(1)))
    first, second = (
        model(input_ids=ids, attention_mask=mask, adapter_names=names) for names in (["a", None], [None, "a"])
    )
    model.active_adapters = "a"
    both = model(input_ids=ids, attention_mask=mask, output_attentions=True, output_hidden_states=True)
    for row, (with_prefix, without) in enumerate([(first, second), (second, first)]):
        present = mask[row].bool()
        torch.testing.assert_close(without[0][row, present], plain[0][row, present], rtol=0, atol=1e-5)
        torch.testing.assert_close(with_prefix[0][row], both[0][row], rtol=0, atol=1e-5)
    if not options:
        shares = both.attentions[0]
        torch.testing.assert_close(
            shares[0, ..., 3:] / shares[0, ..., 3:].sum(-1, keepdim=True), plain.attentions[0][0], rtol=0, atol=1e-5
        )
        heads, size = attention.num_attention_heads, attention.attention_head_size
        text = both.hidden_states[0]
        query = (attention.in_proj if kind == "deberta" else attention.query_proj)(text)
        query = query.unflatten(-1, (heads, -1)).transpose(1, 2)[..., :size]
        if kind == "deberta":
            query = query + attention.q_bias.view(heads, 1, size)
        keys = values[:, : heads * size].view(3, heads, size).transpose(0, 1)
        scores = query @ keys.transpose(-1, -2) / (3 * size) ** 0.5
        torch.testing.assert_close(shares[..., :3].log().diff(dim=-1)[0], scores.diff(dim=-1)[0], rtol=0, atol=1e-4)
    copied = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    assert torch.equal(copied(input_ids=ids, attention_mask=mask)[0], both[0])
    ah.detach(model)
    assert torch.equal(model(input_ids=ids, attention_mask=mask)[0], plain[0])


@torch.no_grad()
def test_a_prompt_on_deberta_is_no_part_of_the_mask_of_the_text() -> None:
    """Its embeddings multiply the text by the mask; rows without padding come out as they do alone."""
    model: Any = ah.init(shrunken("deberta-v2"))
    model.add_adapter("a", config="prompt[prompt_length=3]")
    model.active_adapters = "a"
    ids = torch.arange(3, 13).view(2, 5)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    both = model(input_ids=ids, attention_mask=mask).last_hidden_state
    assert both.shape[1] == 8
    alone = model(input_ids=ids[1:, :3], attention_mask=mask[1:, :3]).last_hidden_state
    torch.testing.assert_close(both[1, :6], alone[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_ia3_rescales_where_its_config_says(kind: str) -> None:
    torch.manual_seed(0)
    model = ah.init(MODELS[kind]().eval())
    roles = {"up_output": {"k", "v", "up"}, "down_input": {"k", "v", "down_input"}, None: {"k", "v"}}
    for ffn, wanted in roles.items():
        model.add_adapter("a", config={"method": "ia3", "ffn": ffn}, overwrite_ok=True)
        assert {key.split(".")[-2].removeprefix("cross_") for key in model.get_adapter("a")} == wanted
