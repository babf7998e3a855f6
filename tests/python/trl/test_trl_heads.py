"""Log-probabilities of the trainer against those of each architecture's own logits."""

import pytest
import torch
import transformers
from selm_core.trl import SELMTrainer
from selm_core.trl.forward import score_rows
from selm_core.trl.head import check_output_head, output_head
from tiny_models import text_dataset, tiny_config, tiny_llama, tiny_tokenizer

SMALL = {
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.5,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
GPT = {
    "vocab_size": 260,
    "n_embd": 32,
    "n_layer": 1,
    "n_head": 4,
    "n_positions": 64,
    "rotary_dim": 4,
    "initializer_range": 0.5,
}
ARCHITECTURES = {
    "Llama": SMALL,
    "Llama tied": {**SMALL, "tie_word_embeddings": True},
    "Qwen2": SMALL,
    "Mistral": SMALL,
    "Phi": SMALL,  # bias on the head
    "GPT2": GPT,
    "GPTJ": GPT,  # bias on the head
    "GPTNeoX": SMALL,
    "OPT": {**SMALL, "ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 64},
    "Gemma2": {**SMALL, "head_dim": 8, "final_logit_softcapping": 3.0},
    "Cohere": {**SMALL, "logit_scale": 0.25},
    "Granite": {**SMALL, "logits_scaling": 4.0},
    "RecurrentGemma": {**SMALL, "logits_soft_cap": 3.0, "block_types": ["attention"]},
}


def tiny(name):
    torch.manual_seed(0)
    family = name.split()[0]
    config = getattr(transformers, f"{family}Config")(**ARCHITECTURES[name])
    model_class = getattr(transformers, f"{family}ForCausalLM", None)
    if model_class is None:
        model_class = getattr(transformers, f"{family}LMHeadModel")
    model = model_class(config).eval()
    head = model.get_output_embeddings()
    with torch.no_grad():
        head.weight.mul_(4.0)  # so that caps and scales matter
        if getattr(head, "bias", None) is not None:
            head.bias.normal_()
    return model


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_scores_are_the_log_probabilities_of_the_models_own_logits(name):
    model = tiny(name)
    ids = torch.randint(2, 260, (3, 7))
    shift_labels = ids.roll(-1, dims=1)
    shift_labels[:, :2] = -100
    shift_labels[:, -1] = -100
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "shift_labels": shift_labels,
    }
    with torch.no_grad():
        scores = score_rows(model, model, batch, ("entropy", "mean_logits", "is_top1"))
        logits = model(input_ids=ids).logits.double()[:, 2:-1]
    logps = logits.log_softmax(-1)
    labels = ids[:, 3:]
    wanted = logps.gather(-1, labels.unsqueeze(-1)).squeeze(-1).sum(1)
    torch.testing.assert_close(scores.logps.double(), wanted, rtol=1e-5, atol=1e-4)
    sums = {name: values.sum(1).double() for name, values in scores.token_outputs.items()}
    entropy = -(logps.exp() * logps).sum((1, 2))
    torch.testing.assert_close(sums["entropy"], entropy, rtol=1e-4, atol=1e-4)
    mean_logits = logits.mean(-1).sum(1)
    torch.testing.assert_close(sums["mean_logits"], mean_logits, rtol=1e-3, atol=1e-4)
    assert sums["is_top1"].tolist() == (logits.argmax(-1) == labels).sum(1).tolist()
    assert scores.lengths.tolist() == [4, 4, 4]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_known_architectures_pass_the_check(name):
    check_output_head(tiny(name))


class ScaledLlama(transformers.LlamaForCausalLM):
    """Changes its logits in a way that no configuration announces."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * 1.5
        return output


class ShorterLlama(transformers.LlamaForCausalLM):
    """Cuts the padding of the vocabulary off."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = output.logits[..., :-4]
        return output


@pytest.mark.parametrize("model_class", [ScaledLlama, ShorterLlama])
def test_other_logits_are_refused(tmp_path, model_class):
    model = model_class(tiny_llama().config)
    model.load_state_dict(tiny_llama().state_dict())
    with pytest.raises(NotImplementedError, match="an output head of this kind"):
        SELMTrainer(
            model,
            args=tiny_config(tmp_path),
            train_dataset=text_dataset(),
            processing_class=tiny_tokenizer(),
        )


def test_the_check_leaves_the_mode_alone():
    model = tiny_llama().train()
    check_output_head(model)
    assert model.training


def test_a_model_without_a_head_is_refused():
    with pytest.raises(NotImplementedError, match=r"output head.*LlamaModel"):
        output_head(tiny_llama().base_model)


def test_hyperclovax_multiplies_and_granite_divides():
    model = tiny("Granite")
    assert output_head(model).logit_scale == 0.25
    model.config.model_type = "hyperclovax"
    assert output_head(model).logit_scale == 4.0
