"""transformers' `Trainer`, saving and restoring adapters instead of whole models."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, Seq2SeqTrainer, Trainer

from adapterhub.core.pool import pool_of
from adapterhub.core.training.decay import decays
from adapterhub.core.training.prefix_cache import cached_prefix
from adapterhub.core.training.regularisation import fusion_regularisation, without_regularisation
from adapterhub.core.training.state import restore_trained, save_trained
from adapterhub.spec.errors import InvalidConfigError

__all__ = ["AdapterTrainer", "Seq2SeqAdapterTrainer"]

#: Arguments only heads take; the Trainer would drop these columns of a dataset otherwise.
_FOR_HEADS = ("labels", "start_positions", "end_positions", "word_starts", "labels_arcs", "labels_rels")


class AdapterTrainer(Trainer):
    """A `Trainer` for a model on which `train_adapter` (or `train_adapter_fusion`) was called.

    Checkpoints hold adapters, fusions and heads in sub-folders; `resume_from_checkpoint` and `load_best_model_at_end` work
    with them. Weight decay leaves norms and scales alone; fusion regularisation is part of the loss.

    Args:
        prefix_cache: compute the layers below the first that trains once for every example (see `PrefixCache`); a folder
            keeps the results in a file there. The other arguments are those of `Trainer`.

    Raises:
        InvalidConfigError: nothing trains, or no adapter does.
    """

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        *args: Any,
        prefix_cache: bool | str | os.PathLike[str] = False,
        **kwargs: Any,
    ) -> None:
        if model is None:
            raise InvalidConfigError("AdapterTrainer needs a model.", hint="model_init is not supported.")
        pool = pool_of(model)
        held = [*pool.adapters.values(), *pool.fusions.values()]
        if not any(parameter.requires_grad for one in held for parameter in one.parameters()):
            raise InvalidConfigError(
                "No adapter of this model is set to train.",
                hint="Call model.train_adapter(name) first; to train the whole model, use transformers' Trainer.",
            )
        self.prefix_cache = prefix_cache
        super().__init__(model, *args, **kwargs)
        if getattr(self.args, "label_names", None) is None and hasattr(model, "heads"):
            self.label_names = self._labels_of_head(model)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.train`."""
        with cached_prefix(self.model, self.prefix_cache):
            return super().train(*args, **kwargs)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Matrices, and not those whose size has a meaning (see `decays`)."""
        theirs = super().get_decay_parameter_names(model)
        parameters = dict(model.named_parameters())
        return [name for name in theirs if name in parameters and decays(name, parameters[name])]

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """The loss of the model and, where a fusion that trains asks for it, its regularisation."""
        with without_regularisation():  # label smoothing and loss functions of one's own take no loss from the model
            result = super().compute_loss(model, inputs, return_outputs=return_outputs, **kwargs)
        extra = fusion_regularisation(self.model) if self.model.training else None
        if extra is None:
            return result
        return (result[0] + extra, result[1]) if return_outputs else result + extra

    def _set_signature_columns_if_needed(self) -> None:
        if getattr(self, "_signature_columns", None) is None:
            pool = pool_of(self.model)
            forward = pool.base_model.forward if hasattr(pool.model, "heads") else pool.model.forward
            names = list(inspect.signature(forward).parameters)
            self._signature_columns: list[str] = [
                *dict.fromkeys([*names, *_FOR_HEADS, "label", "label_ids", *self.label_names])
            ]

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir if output_dir is not None else self.args.output_dir)
        save_trained(self.accelerator.unwrap_model(self.model), folder)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)
        torch.save(self.args, folder / "training_args.bin")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        restore_trained(self.model if model is None else model, resume_from_checkpoint)

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        if best is None or not os.path.isdir(best):
            return
        restore_trained(self.model, best)

    @staticmethod
    def _labels_of_head(model: Any) -> list[str]:
        head = None if model.active_head is None else model._heads.config_of(model.active_head).head_type
        if head == "question_answering":
            return ["start_positions", "end_positions"]
        return ["labels_arcs", "labels_rels"] if head == "dependency_parsing" else ["labels"]


class Seq2SeqAdapterTrainer(AdapterTrainer, Seq2SeqTrainer):
    """`AdapterTrainer` with the generation of `Seq2SeqTrainer` in evaluation (`predict_with_generate`)."""
