"""`init`, `detach`, and the methods a model with adapters has. Each is a few lines over the rooms below."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from adapterhub.core.checking import check_identity
from adapterhub.core.families import discovered, lay_out
from adapterhub.core.freezing import freeze_base, train_only
from adapterhub.core.heads.attached import activate_head, heads_of, release_heads
from adapterhub.core.heads.methods import HeadMethods
from adapterhub.core.kept import steady
from adapterhub.core.overrides import Override, current_override, swap_override
from adapterhub.core.packed import only_unpacked
from adapterhub.core.plan import Plan
from adapterhub.core.pool import Pool, pool_of
from adapterhub.core.recomputing import carrying
from adapterhub.core.repeating import repeated_inputs, repeating
from adapterhub.core.rows import Rows
from adapterhub.core.subclass import is_generated, rebuild, stock_class, subclass_of
from adapterhub.spec.composition import Composition, Fuse, parse_composition
from adapterhub.spec.config import AdapterConfig
from adapterhub.spec.errors import InvalidConfigError, UnsupportedModelError

if TYPE_CHECKING:
    from adapterhub.spec.family import ModelFamily

__all__ = ["AdapterModelMixin", "detach", "init"]


def init(
    model: nn.Module,
    *,
    model_name: str | None = None,
    family: ModelFamily | str | None = None,
    verify: bool = True,
) -> nn.Module:
    """Give a transformers model the methods of `AdapterModelMixin`. No weight, key or output changes by a bit.

    Args:
        model: a model of transformers, with or without head. It is changed in place; calling twice does no harm.
        model_name: the base model's id on its hub, kept with what is saved and used to find adapters; by default the
            model's own name (of a local folder its last part).
        family: where its sublayers are: a `ModelFamily`, the name of one, or None to look it up by the model's type.
        verify: whether one small forward checks that norm(h + r), or h + r, is exactly the next tensor at every site.

    Returns:
        the same object.

    Raises:
        UnsupportedModelError: the family is unknown, or what it says does not hold for this model.
    """
    if is_generated(model):
        if model_name is not None:
            pool_of(model).model_name = model_name
        return model
    if not isinstance(model, nn.Module) or not hasattr(model, "config"):
        raise UnsupportedModelError(
            f"Adapters need a model of transformers, not {type(model).__name__}.",
            hint="Load one with AutoModel….from_pretrained.",
        )
    base, layout = lay_out(model, family)
    if verify and layout.family != "discovered":  # what was discovered has been verified
        try:
            check_identity(model, base, layout)
        except UnsupportedModelError as error:
            if family is not None:
                raise
            base, layout = discovered(model, [error.message])
    model.__dict__["_adapterhub_pool"] = pool = Pool(model, base, layout)
    pool.model_name = model_name
    model.__class__ = subclass_of(type(model), AdapterModelMixin)
    return model


def detach(model: nn.Module) -> nn.Module:
    """Take everything away that `init` and the methods brought: adapters, hooks, class. Frozen parameters are thawed.

    Returns:
        the same object, with its own class and its own keys, bit for bit.
    """
    pool = pool_of(model)
    release_heads(model)
    if pool.merged is not None:
        from adapterhub.core.merged import unmerge_adapter

        unmerge_adapter(model)
    pool.activate(None)
    for site in pool.sites:
        site.clear()
    if pool.frozen:
        for name, parameter in model.named_parameters():
            if parameter.is_floating_point():
                parameter.requires_grad_(pool.trained_before.get(name, True))
    del model.__dict__["_adapterhub_pool"]
    model.__class__ = stock_class(model)
    return model


class AdapterModelMixin(HeadMethods):
    """Methods of a model that went through `init`."""

    _adapterhub_pool: Pool

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """What `to`, `half` or `cuda` do; to packed adapters as they are."""
        if recurse:
            self._pool.move(fn)
        with only_unpacked():
            return super()._apply(fn, recurse)  # type: ignore[misc]

    # ---- adapters -----------------------------------------------------------------------------------------------------

    def add_adapter(
        self,
        adapter_name: str,
        adapter_type: Any = None,
        config: Any = None,
        *,
        overwrite_ok: bool = False,
        set_active: bool = False,
        dtype: torch.dtype | None = None,
        **overrides: Any,
    ) -> None:
        """Add a new adapter.

        Args:
            adapter_name: its name on this model.
            adapter_type: kind of adapter (`AdapterType.text_task`), kept with it. A config may also stand here.
            config: preset name (also with overrides: "pfeiffer[reduction_factor=12]"), config, dict or JSON file; by
                default "pfeiffer".
            overwrite_ok: replace an adapter of this name.
            set_active: activate it.
            dtype: of its parameters; by default the model's.
            overrides: fields of the config to change.

        Raises:
            InvalidConfigError: unknown preset or field, or a name that is taken.
        """
        kind, config = _type_and_config(adapter_type, config)
        if overrides:
            from adapterhub.spec.config import parse_config

            config = parse_config(config, **overrides)
        pool_of(self).add(adapter_name, config, type=kind, overwrite=overwrite_ok, dtype=dtype)  # type: ignore[arg-type]
        if set_active:
            self.set_active_adapters(adapter_name)

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove an adapter, its fusions and the head of its name."""
        if self._pool.merged is not None and self._pool.merged.name == adapter_name:
            self.unmerge_adapter(adapter_name)
        self._pool.delete(adapter_name)
        heads_of(self._pool.model).delete(adapter_name)

    def has_adapters(self) -> bool:
        """Whether there is at least one adapter."""
        return bool(self._pool.adapters)

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names of all adapters."""
        return tuple(self._pool.adapters)

    @property
    def adapter_fusions(self) -> tuple[str, ...]:
        """The names of all fusions."""
        return tuple(self._pool.fusions)

    def adapter_config(self, adapter_name: str) -> AdapterConfig:
        """The config of an adapter."""
        return self._pool.get(adapter_name).config

    def get_adapter(self, name: str) -> dict[str, nn.Parameter]:
        """The parameters of an adapter by neutral key (`encoder.3.ffn.down.weight`): the parameters, not copies."""
        return self._pool.get(name).tensors()

    def adapter_summary(self, as_dict: bool = False) -> Any:
        """A table of the adapters: name, method, parameters, share of the model, active, trains."""
        from adapterhub.core.summary import summary

        return summary(self._pool, as_dict=as_dict)

    # ---- activation ---------------------------------------------------------------------------------------------------

    @property
    def active_adapters(self) -> Composition | None:
        """What runs by default: a composition, or None. Assign a name, a composition, a list (a Stack) or None."""
        override = current_override()
        setup = self._pool.plan.setup if override is None else override.plan_for(self._pool).setup
        return setup if isinstance(setup, Composition) else None

    @active_adapters.setter
    def active_adapters(self, setup: Any) -> None:
        self.set_active_adapters(setup)

    def set_active_adapters(self, adapter_setup: Any, skip_layers: Iterable[int] | None = None) -> None:
        """Make a setup run by default, for all threads.

        Args:
            adapter_setup: a name, a composition, a list (a Stack), or None for the bare model.
            skip_layers: indices of layers whose adapters do not run (AdapterDrop, Rücklé et al., 2021).

        Raises:
            AdapterNotFoundError: an adapter or fusion that is not there.
            InvalidConfigError: a nesting that makes no sense.
        """
        self._pool.activate(parse_composition(adapter_setup), skip_layers or ())
        activate_head(self._pool)

    # ---- training -----------------------------------------------------------------------------------------------------

    def train_adapter(self, adapter_setup: Any, train_embeddings: bool = False, train_head: bool = True) -> None:
        """Freeze the transformer, let these adapters and the head train, and activate them.

        Args:
            adapter_setup: a name, a list of names, or a composition.
            train_embeddings: let the input embeddings train as well.
            train_head: let the head train; the output embedding of a language model never does.
        """
        setup = parse_composition(adapter_setup)
        if setup is None:
            raise InvalidConfigError("Name the adapters to train.")
        self.set_active_adapters(setup)
        self._pool.remember_trained()
        train_only(self._pool, setup, fusions=False, train_head=train_head)
        if train_embeddings:
            self.get_input_embeddings().requires_grad_(True)  # type: ignore[attr-defined]
        self.train()  # type: ignore[attr-defined]

    def train_adapters(self, adapter_setup: Any, train_embeddings: bool = False) -> None:
        """The name the paper uses for `train_adapter`."""
        self.train_adapter(adapter_setup, train_embeddings)

    def train_adapter_fusion(
        self, adapter_setup: Any, unfreeze_adapters: bool = False, train_head: bool = True
    ) -> None:
        """Freeze transformer and adapters, let the fusion and the head train, and activate the setup.

        In training mode the loss the model gives holds the regularisation of the fusion's value matrices (0.01 · ‖I - W_v‖²)
        where its config asks for it (`regularization`, as "dynamic" does).

        Args:
            adapter_setup: a Fuse block, a composition with one, or a list of names to fuse.
            unfreeze_adapters: let the fused adapters train as well.
            train_head: let the head train.
        """
        setup = _fuse_block(adapter_setup)
        self.set_active_adapters(setup)
        self._pool.remember_trained()
        train_only(self._pool, setup, adapters=unfreeze_adapters, train_head=train_head)
        self.train()  # type: ignore[attr-defined]

    def freeze_model(self, freeze: bool = True) -> None:
        """Freeze the transformer, or let it train; adapters and heads stay as they are."""
        self._pool.remember_trained()
        freeze_base(self._pool, freeze=freeze)

    # ---- fusion -------------------------------------------------------------------------------------------------------

    def add_adapter_fusion(
        self,
        adapter_names: Any,
        config: Any = None,
        *,
        name: str | None = None,
        overwrite_ok: bool = False,
        set_active: bool = False,
    ) -> None:
        """Add attention over adapters (Pfeiffer et al., 2021).

        Args:
            adapter_names: a list of names, names joined by commas, or a Fuse block.
            config: "dynamic" (default), "static", a dict or a FusionConfig.
            name: tells several fusions over the same adapters apart; use `Fuse(…, name=…)` to run it.
            overwrite_ok: replace a fusion of this name.
            set_active: activate it.
        """
        block = _fuse_block(adapter_names)
        assert isinstance(block, Fuse)
        fusion = self._pool.add_fusion(block, config, name=name, overwrite=overwrite_ok)
        if set_active:
            self.set_active_adapters(block if name is None else Fuse(*fusion.adapters, name=fusion.name))

    def delete_adapter_fusion(self, adapter_names: Any) -> None:
        """Remove a fusion, by its name, its adapters, or a Fuse block."""
        if isinstance(adapter_names, str) and adapter_names in self._pool.fusions:
            self._pool.delete_fusion(adapter_names)
        else:
            block = _fuse_block(adapter_names)
            assert isinstance(block, Fuse)
            self._pool.delete_fusion(self._pool.fusion_of(block).name)

    # ---- saving and loading (see `formats`) ---------------------------------------------------------------------------

    def save_adapter(self, save_directory: Any, adapter_name: str, **options: Any) -> None:
        """Write an adapter, and its head, as a folder. `format`: "native" (default), "adapters" or "peft"; `dtype`: of the file."""
        from adapterhub.core import checkpoints

        checkpoints.save_adapter(self, save_directory, adapter_name, **options)  # type: ignore[arg-type]

    def load_adapter(self, adapter_name_or_path: Any, **options: Any) -> str:
        """Read an adapter from a folder, a hub reference, or with `source="hf"` the Hugging Face hub; returns its name."""
        from adapterhub.core import checkpoints

        name: str = checkpoints.load_adapter(self, adapter_name_or_path, **options)  # type: ignore[arg-type]
        return name

    def save_all_adapters(self, save_directory: Any, **options: Any) -> None:
        """Write every adapter to a sub-folder of its name."""
        from adapterhub.core import setups

        setups.save_all_adapters(self, save_directory, **options)  # type: ignore[arg-type]

    def load_all_adapters(self, adapter_directory: Any, **options: Any) -> list[str]:
        """Read every adapter `save_all_adapters` or `save_pretrained` wrote; returns their names."""
        from adapterhub.core import whole

        return whole.load_all_adapters(self, adapter_directory, **options)  # type: ignore[arg-type]

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """As transformers saves the model, and its adapters, fusions and heads beside it, in the sub-folder `adapters`.

        The Auto classes of this package bring them back; after those of transformers call `init` and `load_all_adapters`.
        """
        result = super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
        if kwargs.get("is_main_process", True):
            from adapterhub.core import whole

            whole.save_beside(self, save_directory)  # type: ignore[arg-type]
        return result

    def save_adapter_fusion(self, save_directory: Any, adapter_names: Any, **options: Any) -> None:
        """Write a fusion as a folder."""
        from adapterhub.core import checkpoints

        checkpoints.save_adapter_fusion(self, save_directory, adapter_names, **options)  # type: ignore[arg-type]

    def load_adapter_fusion(self, adapter_fusion_name_or_path: Any, **options: Any) -> str:
        """Read a fusion from a folder; its adapters have to be there. Returns its name."""
        from adapterhub.core import checkpoints

        name: str = checkpoints.load_adapter_fusion(self, adapter_fusion_name_or_path, **options)  # type: ignore[arg-type]
        return name

    def save_adapter_setup(self, save_directory: Any, adapter_setup: Any, **options: Any) -> None:
        """Write a composition with all its adapters, fusions and heads."""
        from adapterhub.core import setups

        setups.save_adapter_setup(self, save_directory, adapter_setup, **options)  # type: ignore[arg-type]

    def load_adapter_setup(self, adapter_setup_name_or_path: Any, **options: Any) -> Any:
        """Read what `save_adapter_setup` wrote; returns the composition."""
        from adapterhub.core import setups

        return setups.load_adapter_setup(self, adapter_setup_name_or_path, **options)  # type: ignore[arg-type]

    def push_adapter(self, adapter_name: str, reference: str, **options: Any) -> Any:
        """Publish an adapter under a reference; needs adapterhub-client."""
        from adapterhub.core import pushing

        return pushing.push_adapter(self, adapter_name, reference, **options)  # type: ignore[arg-type]

    # ---- merging (see `merging`) --------------------------------------------------------------------------------------

    def average_adapter(self, adapter_name: str, adapter_list: Any, weights: Any = None, **options: Any) -> None:
        """Add an adapter made from others: linear, ties, dare or svd."""
        from adapterhub.core import merging

        merging.average_adapter(self, adapter_name, adapter_list, weights, **options)  # type: ignore[arg-type]

    def merge_adapter(self, adapter_name: str) -> None:
        """Fold an adapter that allows it (LoRA, IA3) into the weights of the model."""
        from adapterhub.core.merged import merge_adapter

        merge_adapter(self._pool.model, adapter_name)

    def unmerge_adapter(self, adapter_name: str | None = None) -> None:
        """Take a merged adapter out of the weights again."""
        from adapterhub.core.merged import unmerge_adapter

        unmerge_adapter(self._pool.model, adapter_name)

    # ---- running ------------------------------------------------------------------------------------------------------

    def __call__(
        self, *args: Any, adapter_names: Sequence[str | Composition | None] | None = None, **kwargs: Any
    ) -> Any:
        """The model's forward. `adapter_names`: one adapter or composition for each row of the batch, None for the bare model."""
        pool = self._adapterhub_pool
        if (
            pool.hooked == "" and adapter_names is None and current_override() is None
        ):  # also what compiled code guards on
            return super().__call__(*args, **kwargs)  # type: ignore[misc]
        if adapter_names is not None:
            if torch.compiler.is_compiling():
                torch._dynamo.graph_break(
                    msg="adapter_names= is planned outside of compiled code. Call the compiled model inside "
                    "`with AdapterSetup(adapter_names=[...])`, or compile it without fullgraph=True."
                )
            previous = swap_override(override := Override(Rows(adapter_names)))
            try:
                override.plan_for(pool)
                return self.__call__(*args, **kwargs)
            finally:
                swap_override(previous)
                override.release(linger=True)
        override = current_override()  # type: ignore[assignment]
        plan = pool.plan if override is None else override.plan_for(pool)
        if plan.copies > 1 and not (override is not None and override.expand):
            with repeating(pool, plan, args, kwargs) as (args, kwargs):
                output = super().__call__(*args, **kwargs)  # type: ignore[misc]
        else:
            output = super().__call__(*args, **kwargs)  # type: ignore[misc]
        if pool.fusions and self.training:  # type: ignore[attr-defined]
            from adapterhub.core.training.regularisation import regularised

            return regularised(self, output)  # type: ignore[arg-type]
        return output

    def generate(
        self, *args: Any, adapter_names: Sequence[str | Composition | None] | None = None, **kwargs: Any
    ) -> Any:
        """The model's `generate`. `adapter_names`: one adapter or composition for each row, None for the bare model.

        The text is generated with the weights the adapters have when it begins."""
        pool = self._adapterhub_pool
        plan = self._plan
        setup = Rows(adapter_names) if adapter_names is not None else plan.setup
        if setup is None and current_override() is None:
            return super().generate(*args, **kwargs)  # type: ignore[misc]
        override = Override(setup, expand=True, skip_layers=plan.leaves_out)
        previous = swap_override(override)
        try:
            plan = override.plan_for(pool)
            if plan.copies > 1:
                args, kwargs = repeated_inputs(plan.copies, args, kwargs)
            with steady():
                return super().generate(*args, **kwargs)  # type: ignore[misc]
        finally:
            swap_override(previous)
            override.release(linger=adapter_names is not None)

    def set_attn_implementation(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers chooses the attention function; prefixes in force stay in front of the one that is chosen."""
        with self._pool.unhooked():
            return super().set_attn_implementation(*args, **kwargs)  # type: ignore[misc]

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Any = checkpoint, **options: Any
    ) -> None:
        given = gradient_checkpointing_func
        super()._set_gradient_checkpointing(enable, carrying(given), **options)  # type: ignore[misc]
        if enable and getattr(given, "keywords", {}).get("use_reentrant"):
            # the re-entrant kind gives gradients only where an input has one, and below the adapters nothing trains
            self.enable_input_require_grads()  # type: ignore[attr-defined]

    # ---- copies, pickles ----------------------------------------------------------------------------------------------

    def __reduce_ex__(self, protocol: Any) -> Any:
        cls = type(self)
        if "_adapterhub_stock" not in cls.__dict__:
            return super().__reduce_ex__(protocol)
        return rebuild, (cls._adapterhub_stock, cls._adapterhub_mixin), self.__dict__  # type: ignore[attr-defined]

    @property
    def _pool(self) -> Pool:
        return pool_of(self)  # type: ignore[arg-type]

    @property
    def _plan(self) -> Plan:
        override = current_override()
        return self._pool.plan if override is None else override.plan_for(self._pool)


def _type_and_config(adapter_type: Any, config: Any) -> tuple[str | None, Any]:
    """The type as text, and the config; a config given in the type's place counts as one."""
    if adapter_type is not None and config is None and not _is_type(adapter_type):
        adapter_type, config = None, adapter_type
    kind = None if adapter_type is None else str(getattr(adapter_type, "value", adapter_type))
    return kind, "pfeiffer" if config is None else config


def _is_type(value: Any) -> bool:
    return hasattr(value, "value") or (isinstance(value, str) and value.startswith(("text_", "image_", "speech_")))


def _fuse_block(given: Any) -> Composition:
    if isinstance(given, Composition):
        return given
    if isinstance(given, str):
        given = given.split(",")
    if isinstance(given, Mapping):
        found = parse_composition(given)
        assert found is not None
        return found
    return Fuse(*given)
