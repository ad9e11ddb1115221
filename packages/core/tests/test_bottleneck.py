"""Every switch of a bottleneck against its equation, written out by hand."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from packages.core.tests.tiny import close, ids, loss_of, run, tiny, with_adapters
from torch import Tensor

import adapterhub.core as ah

_ACTIVATIONS = {"relu": torch.relu, "gelu": F.gelu, "swish": F.silu, "tanh": torch.tanh}


def by_hand(
    tensors: dict[str, Tensor], config: Any, hidden: Tensor, residual: Tensor, norm: Any
) -> tuple[Tensor, bool]:
    """h' of one site, and whether the model's norm is left out; the equations of the research notes, term by term."""
    skip = hidden
    x = residual if config.is_parallel else hidden
    if not config.is_parallel and config.original_ln_before:
        x = hidden + residual
        if config.residual_before_ln == "post_add":
            skip = x
        if norm is not None:
            x = norm(x)
    if config.residual_before_ln is False and not config.is_parallel:
        skip = x

    def own_norm(name: str, value: Tensor) -> Tensor:
        return F.layer_norm(value, value.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    z = own_norm("norm_before", x) if config.ln_before else x
    if config.phm_layer:

        def matrix(side: str) -> Tensor:
            weight = torch.bmm(tensors[f"{side}.left"], tensors[f"{side}.right"])
            return sum(torch.kron(tensors["rule"][i], weight[i]) for i in range(len(weight)))  # type: ignore[return-value]

        z = _ACTIVATIONS[config.non_linearity](z @ matrix("down") + tensors["down.bias"])
        y = z @ matrix("up") + tensors["up.bias"]
    else:
        z = _ACTIVATIONS[config.non_linearity](z @ tensors["down.weight"].T + tensors["down.bias"])
        y = z @ tensors["up.weight"].T + tensors["up.bias"]
    y = y * (tensors["scaling"] if isinstance(config.scaling, str) else config.scaling)
    if config.use_gating:
        y = y * torch.sigmoid(x @ tensors["gate.weight"].T + tensors["gate.bias"]).mean(1, keepdim=True)
    if not config.is_parallel and config.adapter_residual_before_ln:
        y = y + skip
    if config.ln_after:
        y = own_norm("norm_after", y)
    if config.is_parallel:
        y = y + hidden
    elif not config.adapter_residual_before_ln:
        y = y + skip
    return y, not config.original_ln_after


def reference(model: Any, inputs: dict[str, Tensor], config: Any) -> Tensor:
    """The output of a BERT (post-LN) or GPT-2 (pre-LN) whose sublayers are computed here."""
    tensors = model.get_adapter("a")

    def leaves(site: str) -> dict[str, Tensor]:
        found = {key.removeprefix(f"{site}."): value for key, value in tensors.items() if key.startswith(f"{site}.")}
        return found | ({"rule": tensors["shared.rule"]} if "shared.rule" in tensors else {})

    def site(key: str, placed: bool, hidden: Tensor, residual: Tensor, norm: Any) -> Tensor:
        skipped = False
        if placed:
            hidden, skipped = by_hand(leaves(key), config, hidden, residual, norm)
        if skipped:
            return hidden
        return norm(hidden + residual) if norm is not None else hidden + residual

    model.active_adapters = None
    post = model.config.model_type == "bert"
    if post:
        x = model.embeddings(inputs["input_ids"])
        for i, layer in enumerate(model.encoder.layer):
            inner = layer.attention.self(x)[0]
            h = layer.attention.output.dense(inner)
            x = site(f"encoder.{i}.attention", config.mh_adapter, h, x, layer.attention.output.LayerNorm)
            h = layer.output.dense(layer.intermediate(x))
            x = site(f"encoder.{i}.ffn", config.output_adapter, h, x, layer.output.LayerNorm)
        return x
    tokens = inputs["input_ids"]
    x = model.wte(tokens) + model.wpe(torch.arange(tokens.shape[1]))
    mask = torch.full((tokens.shape[1], tokens.shape[1]), float("-inf")).triu(1)[None, None]
    for i, block in enumerate(model.h):
        h = block.attn(block.ln_1(x), attention_mask=mask)[0]
        x = site(f"decoder.{i}.attention", config.mh_adapter, h, x, None)
        h = block.mlp(block.ln_2(x))
        x = site(f"decoder.{i}.ffn", config.output_adapter, h, x, None)
    return model.ln_f(x)


SWITCHES = [
    dict(zip(("original_ln_before", "residual_before_ln", "original_ln_after"), values, strict=True))
    for values in itertools.product([True, False], [True, False, "post_add"], [True, False])
]
VARIANTS: list[dict[str, Any]] = [
    {"ln_before": True},
    {"ln_after": True},
    {"ln_after": True, "adapter_residual_before_ln": True},
    {"scaling": 3, "non_linearity": "gelu"},
    {"scaling": "learned", "use_gating": True},
    {"scaling": "channel", "non_linearity": "tanh"},
    {"is_parallel": True, "scaling": 4},
    {"is_parallel": True, "use_gating": True, "ln_after": True, "original_ln_after": False},
    {"phm_layer": True, "non_linearity": "gelu"},
    {"mh_adapter": True, "output_adapter": False, "use_gating": True, "original_ln_after": False},
]


@pytest.mark.parametrize("model_class", ["BertModel", "GPT2Model"])
@pytest.mark.parametrize(
    "switches", [*SWITCHES, *VARIANTS], ids=lambda switches: ",".join(f"{k}={v}" for k, v in switches.items())
)
@torch.no_grad()
def test_every_switch_is_its_equation(model_class: str, switches: dict[str, Any]) -> None:
    config = ah.BottleneckConfig(**{"mh_adapter": True, "reduction_factor": 4, "phm_init_range": 0.3, **switches})
    model = with_adapters(tiny(model_class, attn_implementation="eager"), a=config)
    expected = reference(model, ids(), config)
    bare = run(model)
    found = run(model, setup="a")
    assert close(found, expected, 5e-5), float((found - expected).abs().max())
    assert not close(found, bare)


def test_sizes_follow_the_reduction_factor_of_each_layer() -> None:
    model = with_adapters(
        tiny(),
        a=ah.BottleneckConfig(reduction_factor={"0": 2, "2": 64, "default": 8}, leave_out=[1]),
        b="pfeiffer[bottleneck_size=5]",
    )
    shapes = {key: tuple(value.shape) for key, value in model.get_adapter("a").items() if key.endswith("down.weight")}
    assert shapes == {"encoder.0.ffn.down.weight": (16, 32), "encoder.2.ffn.down.weight": (1, 32)}
    assert model.get_adapter("b")["encoder.1.ffn.up.weight"].shape == (32, 5)


@pytest.mark.parametrize(
    ("scheme", "down", "up"),
    [("bert", 0.02, 0.02), ("mam_adapter", (1 / 256 / 3) ** 0.5, 0.0), ("houlsby", 0.0088, 0.0088)],
)
def test_initialisation(scheme: str, down: float, up: float) -> None:
    model = tiny(hidden_size=256, num_hidden_layers=1)
    ah.init(model)
    model.add_adapter("a", config=ah.BottleneckConfig(init_weights=scheme, reduction_factor=1))  # type: ignore[operator]
    tensors = model.get_adapter("a")  # type: ignore[operator]
    assert tensors["encoder.0.ffn.down.weight"].std().item() == pytest.approx(down, rel=0.05)
    assert tensors["encoder.0.ffn.up.weight"].std().item() == pytest.approx(up, rel=0.05)
    assert not tensors["encoder.0.ffn.down.bias"].any()


def test_kept_kronecker_products_notice_new_weights() -> None:
    model = with_adapters(tiny(), a="compacter[reduction_factor=4]")
    first = run(model, setup="a")
    assert torch.equal(run(model), first)
    with torch.no_grad():
        model.get_adapter("a")["encoder.1.ffn.down.left"].mul_(3)
    second = run(model)
    assert not close(first, second)
    model.train_adapter("a")
    loss = loss_of(model(**ids()).last_hidden_state)
    loss.backward()
    assert model.get_adapter("a")["shared.rule"].grad is not None


def test_dropout_and_stochastic_depth_act_in_training_only() -> None:
    model = with_adapters(tiny(), a="pfeiffer[dropout=0.5]", b="pfeiffer[stochastic_depth=0.5]")
    for name in ("a", "b"):
        evaluated = run(model, setup=name)
        assert torch.equal(run(model), evaluated)
        model.train()
        assert not close(run(model), evaluated)
        model.eval()


@pytest.mark.parametrize("kind", ["nice", "glow"])
def test_invertible_blocks_are_inverted(kind: str) -> None:
    model = with_adapters(tiny(hidden_size=36), a=f"pfeiffer[inv_adapter='{kind}']")
    model.active_adapters = "a"
    site = ah.pool_of(model).embedding_site
    assert site is not None
    value = torch.randn(2, 5, 36)
    operation = site.operation()
    assert operation is not None
    with torch.no_grad():
        assert close(operation.inverse(operation(value, None)), value, 1e-4)
        assert not close(operation(value, None), value)


@pytest.mark.parametrize("name", ["BertForMaskedLM", "LlamaForCausalLM"])
@torch.no_grad()
def test_the_inverse_runs_before_the_output_embedding(name: str) -> None:
    model = with_adapters(tiny(name), a="pfeiffer+inv", b="pfeiffer+inv")
    model.active_adapters = "a"
    seen: list[Tensor] = []
    handle = model.get_output_embeddings().register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    site = ah.pool_of(model).embedding_site
    operation = site.operation() if site is not None else None
    assert site is not None and operation is not None
    run(model)
    site.remove()
    handle.remove()
    handle = model.get_output_embeddings().register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    embedded = model.get_input_embeddings().register_forward_hook(lambda module, args, output: None)
    base = site.output.register_forward_hook(lambda module, args, output: operation(output, None))
    run(model)
    assert close(operation(seen[0], None), seen[1], 1e-4)
    for hook in (handle, embedded, base):
        hook.remove()
    site.install(operation)
    mixed = run(model, adapter_names=["a", "b", None])
    for row, setup in enumerate(["a", "b", None]):
        assert close(mixed[row], run(model, setup=setup)[row], 1e-4)


def test_only_adapters_and_head_train() -> None:
    model = tiny("BertForSequenceClassification")
    with_adapters(model, a="pfeiffer", b="pfeiffer").train_adapter("a")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name in trained if "adapterhub" not in name} == {"classifier.weight", "classifier.bias"}
    assert all(".a." in name for name in trained if "adapterhub" in name)
    assert len(trained) == 2 + 3 * 4
    language: Any = with_adapters(tiny("LlamaForCausalLM"), a="pfeiffer")
    language.train_adapter("a")
    assert not language.lm_head.weight.requires_grad
    language.add_adapter("later", config="pfeiffer")
    assert not any(parameter.requires_grad for parameter in language.get_adapter("later").values())
    before = {name: value.clone() for name, value in language.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in language.parameters() if p.requires_grad], 0.1)
    language(**ids(), labels=ids()["input_ids"]).loss.backward()
    optimizer.step()
    changed = {name for name, value in language.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if ".a." in name}
