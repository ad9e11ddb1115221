"""What an adapter weighs that only waits: its modules are light, and yet ordinary torch modules."""

from __future__ import annotations

import copy
import gc
import pickle
import tracemalloc
from collections import OrderedDict

import pytest
import torch
from packages.core.tests.tiny import tiny
from torch import nn
from torch.nn.utils import parametrize, prune

import adapterhub.core as ah
from adapterhub.core.methods.linear import Linear
from adapterhub.core.methods.parameters import Fresh


def made() -> Linear:
    fresh = Fresh(lambda: torch.Generator().manual_seed(0), torch.device("cpu"), torch.float32)
    return Linear(4, 3, fresh, lambda value, generator: value.normal_(generator=generator))


@pytest.mark.parametrize("preset", ["pfeiffer", "houlsby", "lora"])
def test_what_python_keeps_of_an_idle_adapter_is_a_small_part_of_its_tensors(preset):
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=50, num_hidden_layers=6, hidden_size=384, num_attention_heads=12, intermediate_size=768
    )
    model = ah.init(BertModel(config, add_pooling_layer=False).eval())
    model.add_adapter("first", config=preset)
    tensors = sum(p.numel() * p.element_size() for p in model.get_adapter("first").values())
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(20):
        model.add_adapter(f"idle {number}", config=preset)
    gc.collect()
    weight = (tracemalloc.get_traced_memory()[0] - before) / 20
    tracemalloc.stop()
    assert weight < 0.06 * tensors


def test_adapters_loaded_from_one_kind_of_file_share_their_config(tmp_path):
    model = ah.init(tiny())
    model.add_adapter("a", config="pfeiffer[reduction_factor=4]")
    model.save_adapter(tmp_path / "a", "a")
    model.load_adapter(tmp_path / "a", load_as="b")
    model.load_adapter(tmp_path / "a", load_as="c")
    assert model.adapter_config("b") is model.adapter_config("c")
    assert model.adapter_config("b") == model.adapter_config("a")


def test_a_hook_on_one_module_is_on_no_other():
    one, other = made(), made()
    seen: list[str] = []
    handle = one.register_forward_hook(lambda *_: seen.append("forward"))
    one.register_forward_pre_hook(lambda *_: seen.append("before"), prepend=True)
    one.register_full_backward_hook(lambda *_: seen.append("backward"))
    value = torch.randn(2, 4, requires_grad=True)
    other(value)
    assert seen == [] and not other._forward_hooks
    one(value).sum().backward()
    assert seen == ["before", "forward", "backward"]
    handle.remove()
    one(value)
    assert seen == ["before", "forward", "backward", "before"]


def test_state_dict_hooks_and_buffers_work_as_on_any_module():
    one, other = made(), made()
    one.register_buffer("seen", torch.zeros(1))
    one.register_buffer("passing", torch.ones(1), persistent=False)
    one.counter = nn.Buffer(torch.zeros(2))
    one.inner = nn.Linear(1, 1)
    one.register_state_dict_post_hook(lambda module, state, prefix, local: state.update(extra=torch.ones(1)))
    assert list(one.state_dict()) == ["weight", "bias", "seen", "counter", "inner.weight", "inner.bias", "extra"]
    assert list(other.state_dict()) == ["weight", "bias"]
    assert [name for name, _ in one.named_buffers()] == ["seen", "passing", "counter"]
    assert other.load_state_dict(made().state_dict(), strict=True).missing_keys == []
    called = []
    other.register_load_state_dict_post_hook(lambda module, keys: called.append(module))
    other.load_state_dict(made().state_dict())
    assert called == [other]


def test_what_all_modules_share_cannot_be_written_to():
    one = made()
    with pytest.raises(TypeError, match="register"):
        one._forward_hooks[1] = print
    with pytest.raises(TypeError, match="register"):
        one._buffers["x"] = torch.zeros(1)
    assert one._forward_hooks == OrderedDict() and not one._buffers


@pytest.mark.parametrize("again", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module)), copy.copy])
def test_copies_stay_light_and_take_hooks_of_their_own(again):
    one = made()
    other = again(one)
    assert set(vars(other)) == set(vars(one)) == {"training", "_parameters", "_modules"}
    other.register_forward_hook(lambda *_: None)
    assert not one._forward_hooks and len(other._forward_hooks) == 1
    third = again(other) if again is copy.copy else copy.deepcopy(other)
    assert len(third._forward_hooks) == 1
    assert torch.equal(third.weight, one.weight)


def test_torch_tools_that_rewrite_modules_take_them():
    class Doubled(nn.Module):
        def forward(self, value: torch.Tensor) -> torch.Tensor:
            return 2 * value

    one = made()
    before = one(torch.ones(1, 4)) - one.bias
    parametrize.register_parametrization(one, "weight", Doubled())
    assert torch.allclose(one(torch.ones(1, 4)) - one.bias, 2 * before)
    other = made()
    prune.l1_unstructured(other, "weight", amount=0.5)
    assert int((other.weight == 0).sum()) == 6
    assert "weight_mask" in dict(other.named_buffers())


def test_moving_casting_and_applying_reach_every_parameter():
    model = ah.init(tiny())
    model.add_adapter("a", config="houlsby[ln_before=true,use_gating=true,scaling=learned]")
    model.to(torch.float64)
    assert {p.dtype for p in model.get_adapter("a").values()} == {torch.float64}
    parts = [part for name, part in model.named_modules() if ".a." in f"{name}."]
    model.train()
    assert all(part.training for part in parts)
    model.eval()
    assert not any(part.training for part in parts)
    touched: list[nn.Module] = []
    model.apply(touched.append)
    assert {id(part) for part in parts} <= {id(part) for part in touched}
    model.zero_grad()
