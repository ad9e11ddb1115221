"""What is computed from parameters once and kept for inference is never that of other parameters, or of another number type."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from packages.core.tests.tiny import close, ids, loss_of, run, shake, tiny, with_adapters

import adapterhub.core as ah
from adapterhub.core.kept import Kept

#: preset → a parameter from which its kept value comes
KEPT = {
    "prefix_tuning[bottleneck_size=8,prefix_length=3]": "shared.encoder_attention.down.weight",
    "loreft": "encoder.1.layer.prefix.projection",
    "dora": "encoder.1.q.magnitude",
    "compacter[reduction_factor=4]": "encoder.1.ffn.down.left",
}


@pytest.mark.parametrize("preset", KEPT)
def test_other_parameters_give_other_outputs(preset: str) -> None:
    model = with_adapters(tiny(), a=preset)
    first = run(model, setup="a")
    assert torch.equal(run(model), first)
    leaf = KEPT[preset]
    with torch.no_grad():
        model.get_adapter("a")[leaf].view(-1)[::2].mul_(3)
    changed = run(model)
    assert not close(changed, first), "changed in place"
    random = {
        name: torch.randn_like(value) if "adapterhub_" in name else value for name, value in model.state_dict().items()
    }
    model.load_state_dict(random, assign=True)
    assigned = run(model)
    assert not close(assigned, changed), "other parameters in the place of the old ones"
    with torch.enable_grad():  # nothing kept takes part
        assert close(model(**ids()).last_hidden_state.detach(), assigned)


def test_dora_notices_new_base_weights() -> None:
    model = with_adapters(tiny(), a="dora")
    before = run(model, setup="a")
    with torch.no_grad():
        model.encoder.layer[1].attention.self.query.weight.mul_(1.5)
    after = run(model)
    assert not close(after, before)
    assert close(model(**ids()).last_hidden_state.detach(), after)


@pytest.mark.parametrize("setup", [*KEPT, "fusion", "rows"])
def test_autocast_and_inference_mode_leave_nothing_behind(setup: str) -> None:
    model = with_adapters(tiny(), a=setup if setup in KEPT else "pfeiffer", b="pfeiffer")
    chosen: dict[str, Any] = {}
    if setup == "rows":
        chosen = {"adapter_names": ["a", "b", "b"]}
    elif setup == "fusion":
        model.add_adapter_fusion(["a", "b"])
        shake(model)
        model.active_adapters = ah.Fuse("a", "b")
    else:
        model.active_adapters = "a"
    expected = run(model, **chosen)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        low = model(**ids(), **chosen).last_hidden_state
    assert close(run(model, **chosen), expected) and not close(low.float(), expected)
    for name in ("a", "b"):
        for parameter in model.get_adapter(name).values():
            parameter.requires_grad_(False)
            parameter.mul_(1.0)  # another version: kept values are computed anew, now in inference mode
    for fusion in ah.pool_of(model).fusions.values():
        for parameter in fusion.parameters():
            parameter.requires_grad_(False)
            parameter.mul_(1.0)
    with torch.inference_mode():
        model(**ids(), **chosen)
    loss_of(model(**ids(), **chosen).last_hidden_state).backward()  # through kept values to the embeddings
    assert model.embeddings.LayerNorm.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "preset", ["pfeiffer[reduction_factor=4]", "lora[init_weights='bert']", "prefix_flat", "loreft"]
)
def test_a_text_is_generated_with_the_weights_there_were_when_it_began(
    preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are looked at once, not at each step, and changes between two texts are seen."""
    model: Any = with_adapters(tiny("LlamaForCausalLM"), a=preset, b=preset)
    looked: list[Kept[Any]] = []
    state = Kept._state

    def seen(kept: Kept[Any]) -> Any:
        looked.append(kept)
        return state(kept)

    monkeypatch.setattr(Kept, "_state", seen)
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "output_logits": True}
    options |= {"return_dict_in_generate": True, "adapter_names": ["a", "b", "a"]}

    def logits() -> torch.Tensor:
        return torch.stack(model.generate(ids(3)["input_ids"], **options).logits)

    first = logits()
    assert looked and len(looked) == len(set(looked)), "each value once"
    with torch.no_grad():
        for weight in model.get_adapter("b").values():
            weight.mul_(1.5)
    second = logits()
    assert torch.equal(second[:, [0, 2]], first[:, [0, 2]]) and not close(second[:, 1], first[:, 1])
    assert torch.equal(logits(), second)
    with torch.no_grad():
        steps = model(ids(3)["input_ids"], adapter_names=options["adapter_names"]).logits[:, -1]
    assert close(second[0], steps, 1e-4)
