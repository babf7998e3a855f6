"""SELMConfig: defaults, the command line, and what it refuses."""

import dataclasses
import re

import pytest
import selm_core
import torch
import transformers.utils
from selm_core.errors import UnsupportedError
from selm_core.trl import UNSUPPORTED_OPTIONS, SELMConfig
from selm_core.trl import config as config_module
from tiny_models import tiny_config
from trl import DPOConfig, TrlParser

RISING = {"alpha": 0.0, "alpha_schedule": "linear", "final_alpha": 0.1}


def test_defaults_are_those_of_the_paper(tmp_path):
    config = tiny_config(tmp_path)
    assert (config.alpha, config.beta, config.exploration) == (1e-3, 0.01, "selm")
    assert config.loss_type == ["sigmoid"]


def test_command_line(tmp_path):
    (config,) = TrlParser([SELMConfig]).parse_args_and_config(
        f"--output_dir {tmp_path} --use_cpu --bf16 False --alpha 0.01 --exploration xpo "
        "--loss_type hinge".split()
    )
    assert (config.alpha, config.exploration, config.loss_type) == (0.01, "xpo", ["hinge"])


def test_the_help_names_every_exploration_term_and_the_losses_that_trl_lacks():
    fields = SELMConfig.__dataclass_fields__
    terms = fields["exploration"].metadata["choices"]
    assert [
        term for term in terms if f"'{term}'" not in fields["exploration"].metadata["help"]
    ] == []
    assert [term for term in terms if f"'{term}'" not in fields["alpha"].metadata["help"]] == []
    listed = re.findall(r"'(\w+)'", fields["loss_type"].metadata["help"])
    trls = re.findall(r"'(\w+)'", DPOConfig.__dataclass_fields__["loss_type"].metadata["help"])
    documented = re.findall(r"^    ``(\w+)`` ", selm_core.dpo_loss.__doc__, re.MULTILINE)
    assert set(listed) <= set(documented) - set(trls)
    assert {"dpop", "r_dpo", "nll"} <= set(listed)


@pytest.mark.parametrize("option", UNSUPPORTED_OPTIONS)
def test_unsupported_options_raise_and_are_named(tmp_path, option):
    accepted, _ = UNSUPPORTED_OPTIONS[option]
    other = {
        "padding_free": True,
        "label_smoothing_factor": 0.1,
    }[option]
    message = f"SELMTrainer does not support .*: expected '{option}' to be .*, got"
    with pytest.raises(UnsupportedError, match=message):
        tiny_config(tmp_path, **{option: other})
    assert getattr(tiny_config(tmp_path, **{option: accepted}), option) == accepted


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"alpha": -1e-3}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"alpha": float("inf")}, "alpha"),
        ({"beta": 0.0}, "beta"),
        ({"beta": -1.0}, "beta"),
        ({"loss_type": "no_such_loss"}, "loss_type"),
        ({"loss_type": "simpo"}, "loss_type"),
        ({"loss_type": "r_dpo"}, "length_margin"),
        ({"dpop_lambda": 5.0}, "dpop_lambda"),
        ({"discopop_tau": 0.1}, "discopop_tau"),
        ({"f_alpha_divergence_coef": 0.7}, "f_alpha_divergence_coef"),
        ({"f_divergence_type": "forward_kl"}, "reverse_kl"),
        ({"f_divergence_type": "forward_kl", "alpha": 0.0, "loss_type": "nca_pair"}, "nca_pair"),
        ({"f_divergence_type": "forward_kl", "alpha": 0.0, "loss_type": "sft"}, "'sft'"),
        ({"loss_type": ["sigmoid", "sft"], "label_smoothing": 0.1}, "label_smoothing"),
        ({"loss_type": "exo_pair"}, "label_smoothing"),
        ({"loss_type": "sft", "ld_alpha": 0.5}, "ld_alpha"),
        ({"loss_type": ["sigmoid", "sft"], "use_weighting": True}, "use_weighting"),
        ({"logratio_clip": 0.0}, "logratio_clip"),
        ({"alpha_schedule": "step"}, "schedule"),
        ({"final_alpha": 0.1}, "final_alpha"),
        ({"alpha_schedule": "linear", "final_alpha": -0.1}, "'final_alpha' >= 0"),
        ({"alpha_schedule": "linear", "final_alpha": float("nan")}, "final_alpha"),
        ({**RISING, "f_divergence_type": "js_divergence"}, "reverse_kl"),
        ({**RISING, "exploration": "vpo"}, "vpo"),
        ({**RISING, "logratio_clip": -1.0}, "logratio_clip"),
        ({"alpha": 0.0, "exploration": "popo"}, "'exploration' to be left at 'selm'"),
        ({"alpha": 0.0, "logratio_clip": 0.5}, "'logratio_clip' to be left at None"),
        ({"alpha": 0.0, "alpha_schedule": "cosine"}, "'alpha_schedule' to be left at 'constant'"),
        ({**RISING, "final_alpha": 0.0}, "'alpha_schedule' to be left at 'constant'"),
        ({"ld_alpha": -1}, r"'ld_alpha' to be in \[0, 1\]"),
        ({"ld_alpha": 2}, r"'ld_alpha' to be in \[0, 1\]"),
        ({"ld_alpha": float("nan")}, r"'ld_alpha' to be in \[0, 1\]"),
        ({"exploration": "vpo"}, "vpo"),
        ({"truncation_mode": "keepstart"}, "truncation_mode"),
        ({"max_length": 1}, "max_length"),
        ({"loss_type": "hinge", "label_smoothing": 0.1}, "label_smoothing"),
        ({"loss_type": "ipo", "label_smoothing": 0.1}, "label_smoothing"),
    ],
)
def test_values_out_of_range_raise_and_are_named(tmp_path, options, named):
    with pytest.raises(ValueError, match=named):
        tiny_config(tmp_path, **options)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("alpha", value) for value in (None, "0.1", True)),
        *(("ld_alpha", value) for value in ("0.5", True)),
        ("final_alpha", "0.1"),
    ],
)
def test_a_number_that_is_none_raises_and_is_named(tmp_path, option, value):
    schedule = {"alpha_schedule": "linear"} if option == "final_alpha" else {}
    with pytest.raises(TypeError, match=f"expected '{option}' to be a number, got"):
        tiny_config(tmp_path, **{option: value}, **schedule)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("loss_type", {"sigmoid": 2.0}),
        ("loss_type", {"sigmoid", "hinge"}),
        ("loss_weights", {2.0}),
        ("loss_weights", torch.tensor([2.0])),
    ],
    ids=str,
)
def test_what_has_no_order_is_no_list_of_losses(tmp_path, option, value):
    with pytest.raises(TypeError, match=f"'{option}' to be a sequence, got {type(value).__name__}"):
        tiny_config(tmp_path, **{option: value})


@pytest.mark.parametrize(
    ("options", "explores"),
    [
        ({}, True),
        ({"alpha": 0.0}, False),
        ({"alpha_schedule": "linear"}, True),
        (RISING, True),
    ],
)
def test_whether_a_configuration_explores(tmp_path, options, explores):
    assert tiny_config(tmp_path, **options).explores is explores


@pytest.mark.filterwarnings("error::FutureWarning")
def test_activation_checkpointing_is_on_by_default_without_a_warning(tmp_path):
    config = SELMConfig(str(tmp_path), use_cpu=True)
    assert (config.activation_checkpointing, config.gradient_checkpointing) == (True, True)
    config = SELMConfig(str(tmp_path), use_cpu=True, activation_checkpointing=False)
    assert (config.activation_checkpointing, config.gradient_checkpointing) == (False, False)
    assert dataclasses.replace(config).activation_checkpointing is False


def test_the_name_that_trl_scripts_use_still_works(tmp_path):
    with pytest.warns(FutureWarning, match="gradient_checkpointing"):
        config = SELMConfig(str(tmp_path), use_cpu=True, gradient_checkpointing=False)
    assert config.activation_checkpointing is False


def test_default_precision_on_a_cpu_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(config_module, "is_torch_bf16_gpu_available", lambda: False)
    with pytest.raises(ValueError, match=r"bf16=False.*use_cpu=True"):
        SELMConfig(str(tmp_path))
    assert transformers.utils.is_torch_bf16_gpu_available is not None
    assert SELMConfig(str(tmp_path), bf16=False, use_cpu=True).bf16 is False
    assert SELMConfig(str(tmp_path), use_cpu=True).bf16 is True
