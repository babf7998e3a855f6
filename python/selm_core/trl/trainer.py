"""``SELMTrainer``: TRL's ``DPOTrainer`` with the exploration term."""

import contextlib
import copy
import os
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import broadcast_object_list, is_peft_model, tqdm
from datasets import Dataset, IterableDataset
from datasets.fingerprint import Hasher
from torch.utils.data import DataLoader
from transformers import (
    AutoProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    TrainerCallback,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput, EvalPrediction
from trl.trainer import dpo_trainer
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.utils import get_config_model_id, global_then_local_main_first, use_adapter

import selm_core
from selm_core.trl.checks import check_setup
from selm_core.trl.config import SELMConfig
from selm_core.trl.data import (
    DataCollatorForSELM,
    needed_completions,
    prepare_dataset,
    text_tokenizer,
)
from selm_core.trl.forward import RowScores, score_rows
from selm_core.trl.head import check_output_head, evaluation_mode
from selm_core.trl.loss import batch_loss, completions_of, pair_weights
from selm_core.trl.metrics import OUTPUTS, batch_means
from selm_core.trl.reference import add_columns, load_columns, save_columns
from selm_core.trl.unsupported import refuse

REFERENCE_FOLDER = "ref_model"


class SELMTrainer(DPOTrainer):
    """Trainer for Self-Exploring Language Models (SELM, https://arxiv.org/abs/2405.19332).

    It is used like TRL's ``DPOTrainer``. The dataset has a third completion, `response` (or
    `reference_response`): a response of the reference policy to the prompt. The loss is that of
    DPO plus ``alpha * beta * (logp(response) - ref_logp(response))``, so that training moves
    probability away from what the reference policy already says. With ``alpha=0`` it is DPO.

    Datasets are standard, conversational, or tokenised (`prompt_ids`, `chosen_ids`, `rejected_ids`,
    `response_ids`). The distinct rows of a batch are scored in one forward: a response that is
    also the chosen or the rejected one costs nothing. TRL's metrics are logged under TRL's names,
    and for ``alpha > 0`` also `loss/dpo` and `loss/selm` (the two parts of the loss),
    `logps/response` and `rewards/response`. `num_tokens` counts the tokens of the distinct rows.

    Args:
        model: name or path, a ``PreTrainedModel``, or a ``PeftModel``.
        ref_model: the reference policy, which is put in evaluation mode. None means the policy as
            it is now: a copy of `model` (TRL would load the weights that its configuration names,
            which are not those of a model that was changed since), the base model under a new
            adapter, or a frozen copy of the adapter of a ``PeftModel``.
        args: the configuration; None for the defaults.
        data_collator: a `DataCollatorForSELM` that truncates and pads as `args` says; None for a
            new one.
        train_dataset: the dataset to train on.
        eval_dataset: the dataset, or several by name, to evaluate on; with the same columns.
        processing_class: the tokenizer; None for the one of `model`.
        compute_metrics: not supported, because the logits are never built.
        callbacks: see ``transformers.Trainer``.
        optimizers: see ``transformers.Trainer``.
        quantization_config: see ``DPOTrainer``.
        peft_config: wrap `model` with this adapter.

    Raises:
        TypeError: `args`, `ref_model` or `data_collator` of another type.
        ValueError: a dataset without the columns above, or a `data_collator` that does not do what
            `args` says.
        UnsupportedError: what `selm_core.trl.UNSUPPORTED_SETUPS` lists.

    Example:
        >>> from datasets import load_dataset
        >>> trainer = SELMTrainer(
        ...     model="path/of/a/model",
        ...     args=SELMConfig("selm-model", alpha=1e-3, beta=0.01, use_cpu=True),
        ...     train_dataset=load_dataset("json", data_files="train.jsonl", split="train"),
        ... )
        >>> output = trainer.train()
        {'train_runtime': ...}
    """

    args: SELMConfig
    model: Any
    ref_model: Any
    _signature_columns: Any

    _tag_names = ["trl", "selm"]  # noqa: RUF012 - as the parent declares it
    _name = "SELM"
    _paper = {  # noqa: RUF012
        "title": "Self-Exploring Language Models: Active Preference Elicitation for Online "
        "Alignment",
        "id": "2405.19332",
        "citation": textwrap.dedent("""\
            @article{zhang2024selm,
                title   = {{Self-Exploring Language Models: Active Preference Elicitation for
                            Online Alignment}},
                author  = {Shenao Zhang and Donghan Yu and Hiteshi Sharma and Han Zhong and
                           Zhihan Liu and Ziyi Yang and Shuohang Wang and Hany Hassan and
                           Zhaoran Wang},
                journal = {arXiv preprint arXiv:2405.19332},
                year    = 2024,
            }"""),
    }

    def __init__(
        self,
        model: Any,
        ref_model: PreTrainedModel | None = None,
        args: SELMConfig | None = None,
        data_collator: DataCollatorForSELM | None = None,
        train_dataset: Dataset | IterableDataset | None = None,
        eval_dataset: Dataset | IterableDataset | dict[str, Any] | None = None,
        processing_class: PreTrainedTokenizerBase | ProcessorMixin | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        quantization_config: Any | None = None,
        peft_config: Any | None = None,
    ) -> None:
        """Prepare models and datasets; see the class for the arguments."""
        model_id = model if isinstance(model, str) else get_config_model_id(model.config)
        if args is None:
            args = SELMConfig(f"{model_id.split('/')[-1]}-SELM")
        check_setup(
            model, ref_model, args, train_dataset, data_collator, compute_metrics, peft_config
        )

        self.completions = needed_completions(args.explores)
        if processing_class is None:
            model_options = cast("dict[str, Any]", args.model_init_kwargs or {})
            processing_class = AutoProcessor.from_pretrained(
                model_id,
                revision=model_options.get("revision"),
                trust_remote_code=args.trust_remote_code,
            )
        if data_collator is None:
            data_collator = DataCollatorForSELM(
                pad_token_id=_pad_token_id(args, processing_class),
                max_length=args.max_length,
                truncation_mode=args.truncation_mode,
                pad_to_multiple_of=cast("int | None", args.pad_to_multiple_of),
                completions=self.completions,
            )
        if ref_model is None and _needs_reference_copy(model, args, peft_config):
            ref_model = copy.deepcopy(model).requires_grad_(False)
        if ref_model is not None:
            ref_model.eval()

        with _checked_not_fused(self._check_model):
            super().__init__(
                model=model,
                ref_model=ref_model,
                args=args,
                data_collator=data_collator,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=processing_class,
                callbacks=callbacks,
                optimizers=optimizers,
                quantization_config=quantization_config,
                peft_config=peft_config,
            )

    def _check_model(self, model: PreTrainedModel) -> None:
        if self.aux_loss_enabled:
            refuse("the auxiliary loss of a Mixture-of-Experts model", type(model).__name__)
        check_output_head(model)

    # Data

    def _prepare_dataset(
        self,
        dataset: Dataset | IterableDataset,
        processing_class: PreTrainedTokenizerBase | ProcessorMixin,
        args: DPOConfig,
        dataset_name: str,
    ) -> Dataset | IterableDataset:
        with global_then_local_main_first():
            return prepare_dataset(
                dataset,
                processing_class,
                completions=self.completions,
                max_length=args.max_length,
                truncation_mode=args.truncation_mode,
                num_proc=args.dataset_num_proc,
                name=dataset_name,
            )

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            self._signature_columns = [
                "prompt_ids",
                *(f"{completion}_ids" for completion in self.completions),
                *(f"ref_{completion}_logps" for completion in self.completions),
            ]

    # Scores

    def _causal_lm(self, model: torch.nn.Module) -> PreTrainedModel:
        """The language model inside the wrappers of `model`."""
        unwrapped: Any = self.accelerator.unwrap_model(model)
        language_model: PreTrainedModel = (
            unwrapped.get_base_model() if is_peft_model(unwrapped) else unwrapped
        )
        return language_model

    def _score(
        self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], outputs: tuple[str, ...] = ()
    ) -> RowScores:
        with self.accelerator.autocast():
            return score_rows(model, self._causal_lm(model), inputs, outputs)

    def _rows(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The distinct row of each completion, `(batch,)` by name."""
        return {completion: inputs[f"{completion}_rows"] for completion in self.completions}

    @property
    def _reference_adapter(self) -> str | None:
        """The adapter that is the reference: TRL's copy of a pretrained one, or none."""
        return "ref" if "ref" in self.accelerator.unwrap_model(self.model).peft_config else None

    @contextlib.contextmanager
    def _reference_mode(self) -> Iterator[None]:
        """Without gradients, and as the reference policy where that is the model itself."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            if self.ref_model is None:
                stack.enter_context(evaluation_mode(self.model))
            if self.ref_model is None and is_peft_model(self.model):
                unwrapped = self.accelerator.unwrap_model(self.model)
                stack.enter_context(use_adapter(unwrapped, adapter_name=self._reference_adapter))
            yield

    def compute_ref_log_probs(
        self, model: torch.nn.Module, inputs: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        """Reference log-probabilities of the completions of a batch, each `(batch,)`.

        Args:
            model: the reference model, or the policy whose adapter is switched.
            inputs: a batch of the collator.
        """
        with self._reference_mode():
            scores = self._score(model, inputs)
        completions = completions_of(scores, self._rows(inputs), self.args.ld_alpha)
        return tuple(completions.logps.values())

    def _reference_logps(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if self.precompute_ref_logps:
            return {c: inputs[f"ref_{c}_logps"] for c in self.completions}
        model = self.model if self.ref_model is None else self.ref_model
        logps = self.compute_ref_log_probs(model, inputs)
        return dict(zip(self.completions, logps, strict=True))

    # Loss

    def _compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], return_outputs: bool
    ) -> torch.Tensor:
        if return_outputs:
            refuse("compute_metrics and predict()")
        weighting = ("log_sum_sq_probs",) if self.args.use_weighting else ()
        scores = self._score(model, inputs, (*OUTPUTS, *weighting))
        rows = self._rows(inputs)
        policy = completions_of(scores, rows, self.args.ld_alpha)
        loss = batch_loss(
            self.args,
            policy,
            self._reference_logps(inputs),
            alpha=self._alpha,
            weights=pair_weights(scores, rows) if self.args.use_weighting else None,
        )
        self._record(scores, inputs, policy.logps, loss)
        return loss.losses.mean()

    @property
    def _alpha(self) -> float:
        """The exploration strength at this step of its schedule."""
        steps = self.state.max_steps
        return self.args.alpha_at(self.state.global_step / steps if steps > 0 else 0.0)

    def _record(
        self,
        scores: RowScores,
        inputs: dict[str, torch.Tensor],
        logps: dict[str, torch.Tensor],
        loss: selm_core.SELMLoss,
    ) -> None:
        mode = "train" if self.model.training else "eval"
        means = batch_means(scores, self._rows(inputs), logps, loss)
        for name, value in means.gather(self.accelerator).items():
            self._metrics[mode][name].append(value)
        if self.args.alpha_schedule != "constant":
            self._metrics[mode]["alpha"].append(self._alpha)
        if mode == "train":
            tokens = self.accelerator.gather(inputs["attention_mask"].sum()).sum()
            self._total_train_tokens += int(tokens)
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]

    def evaluation_loop(self, *args: Any, **options: Any) -> EvalLoopOutput:
        """See ``transformers.Trainer``; may come before `train()` in several processes, too."""
        first = not self.accelerator._models and not self.is_deepspeed_enabled
        output = super().evaluation_loop(*args, **options)
        if first and self.accelerator.num_processes > 1:
            # That marked the bare model as prepared: train() would leave it without the wrapper
            # that averages the gradients, and every process would train a model of its own.
            self.accelerator._models.clear()
            self.model_wrapped = self.model
            vars(self.model).pop("_is_accelerate_prepared", None)
        return output

    # Precomputed reference log-probabilities

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        if isinstance(dataset, IterableDataset):
            raise ValueError(
                "SELMTrainer: precompute_ref_log_probs=True needs a Dataset, and the "
                f"{name} dataset is an IterableDataset"
            )
        file = [dataset._get_cache_file_path(self._reference_key(dataset))]
        # The key depends on the process (a temporary folder may, too): all use that of the first.
        broadcast_object_list(file, from_process=0)
        path = Path(file[0]).with_suffix(".safetensors")
        # No process may skip the forwards while others wait for it there.
        found = torch.tensor([int(path.exists())], device=self.accelerator.device)
        if self.accelerator.gather(found).all():
            return add_columns(dataset, load_columns(path))
        columns = self._reference_columns(dataset, name, batch_size)
        if self.accelerator.is_main_process:
            save_columns(columns, path)
        self.accelerator.wait_for_everyone()
        return add_columns(dataset, columns)

    def _reference_key(self, dataset: Dataset) -> str:
        """Hash of all that the reference log-probabilities of `dataset` depend on."""
        key: str = Hasher.hash(
            {
                "selm_core": selm_core.__version__,
                "dataset": dataset._fingerprint,
                "collator": repr(self.data_collator),  # with the columns and the truncation
                "ld_alpha": self.args.ld_alpha,
                "model": self._precompute_model_hash,
                "adapter": self._reference_adapter if is_peft_model(self.model) else "no adapter",
                "dtype": str(self.model.dtype),
                "mixed_precision": self.accelerator.mixed_precision,
                "device": self.accelerator.device.type,
            }
        )
        return key

    def _reference_columns(
        self, dataset: Dataset, name: str, batch_size: int
    ) -> dict[str, torch.Tensor]:
        loader = self.accelerator.prepare(
            DataLoader(
                dataset,
                batch_size=batch_size,
                collate_fn=self.data_collator,
                num_workers=self.args.dataloader_num_workers,
                pin_memory=self.args.dataloader_pin_memory,
            )
        )
        model = self.model if self.ref_model is None else self.ref_model
        batches = []
        for inputs in tqdm(
            iterable=loader,
            desc=f"Computing reference log probs for {name} dataset",
            disable=bool(os.environ.get("TQDM_DISABLE", "")),
        ):
            logps = torch.stack(self.compute_ref_log_probs(model, inputs), dim=1)
            batches.append(self.accelerator.gather_for_metrics(logps).cpu())
        names = [f"ref_{completion}_logps" for completion in self.completions]
        return dict(zip(names, torch.cat(batches).unbind(dim=1), strict=True))

    # Checkpoints: with `sync_ref_model` the reference is a part of the state

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)  # type: ignore[no-untyped-call]
        if self.args.sync_ref_model and self.args.should_save:
            checkpoint = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            folder = Path(self._get_output_dir(trial=trial), checkpoint, REFERENCE_FOLDER)
            self.accelerator.unwrap_model(self.ref_model).save_pretrained(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint, REFERENCE_FOLDER)
        if self.args.sync_ref_model and not folder.is_dir():
            raise FileNotFoundError(
                f"SELMTrainer: {folder} is missing: the checkpoint was written without "
                "sync_ref_model=True, so the reference model it belongs to is unknown"
            )
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.args.sync_ref_model:
            reference = self.accelerator.unwrap_model(self.ref_model)
            saved = type(reference).from_pretrained(folder, dtype=reference.dtype)
            reference.load_state_dict(saved.state_dict())


def _pad_token_id(
    args: SELMConfig, processing_class: PreTrainedTokenizerBase | ProcessorMixin
) -> int:
    tokenizer = text_tokenizer(processing_class)
    token = args.pad_token or tokenizer.pad_token or tokenizer.eos_token
    if token not in tokenizer.get_vocab():
        raise ValueError(f"SELMTrainer: the tokenizer has no padding token {token!r}")
    return int(tokenizer.get_vocab()[token])


def _needs_reference_copy(model: Any, args: SELMConfig, peft_config: Any) -> bool:
    if isinstance(model, str) or peft_config is not None or is_peft_model(model):
        return False
    return not args.precompute_ref_log_probs


@contextlib.contextmanager
def _checked_not_fused(check: Callable[[PreTrainedModel], None]) -> Iterator[None]:
    """Keep TRL from binding another `forward` to policy and reference (see `forward.py`), and
    `check` each of them instead: it comes before the reference log-probabilities are computed."""
    name = "add_fused_lm_head"
    original = getattr(dpo_trainer, name)
    setattr(dpo_trainer, name, lambda model, **options: check(model))
    try:
        yield
    finally:
        setattr(dpo_trainer, name, original)
