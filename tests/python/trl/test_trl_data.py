"""Columns, tokens and batches."""

import pytest
import torch
from datasets import Dataset, IterableDataset
from selm_core.trl import DataCollatorForSELM, prepare_dataset
from selm_core.trl.data import PAIR, TRIPLE
from tiny_models import chat_dataset, text_dataset, text_examples, tiny_tokenizer

END = 1  # "</s>"
IDS = {"prompt_ids": [5, 6], "chosen_ids": [7, END], "rejected_ids": [8, END], "response_ids": [9]}


def prepare(dataset, **options):
    return prepare_dataset(dataset, tiny_tokenizer(), **options)


def decoded(dataset, column):
    tokenizer = tiny_tokenizer()
    return [tokenizer.decode(ids) for ids in dataset[column]]


def test_text_is_tokenised_and_every_completion_gets_one_end_token():
    examples = text_examples()
    examples[0]["response"] += "</s>"
    prepared = prepare(Dataset.from_list(examples))
    assert decoded(prepared, "prompt_ids") == [example["prompt"] for example in examples]
    for completion in TRIPLE:
        wanted = [example[completion].removesuffix("</s>") + "</s>" for example in examples]
        assert decoded(prepared, f"{completion}_ids") == wanted
        assert all(ids.count(END) == 1 for ids in prepared[f"{completion}_ids"])


def test_conversations_go_through_the_chat_template():
    prepared = prepare(chat_dataset(1))
    (example,) = text_examples(1)
    assert decoded(prepared, "prompt_ids") == [f"<|user|>{example['prompt']}</s>\n<|assistant|>"]
    for completion in TRIPLE:
        assert decoded(prepared, f"{completion}_ids") == [f"{example[completion]}</s>\n"]


def test_reference_response_is_another_name_of_response():
    renamed = prepare(text_dataset().rename_column("response", "reference_response"))
    assert renamed["response_ids"][:] == prepare(text_dataset())["response_ids"][:]


def test_tokens_are_taken_as_they_are():
    prepared = prepare(Dataset.from_list([IDS]))
    assert prepared[0] == IDS  # the response was cut off: no false end token


def test_text_columns_beside_tokens_are_left_alone():
    prepared = prepare(Dataset.from_list([{**IDS, **text_examples(1)[0]}]))
    assert {column: prepared[0][column] for column in IDS} == IDS


def test_preparing_twice_changes_nothing():
    once = prepare(text_dataset())
    assert prepare(once)["response_ids"][:] == once["response_ids"][:]


def test_prompt_may_be_implied():
    examples = [
        {c: f"{example['prompt']}{c}: {example[c]}" for c in TRIPLE} for example in text_examples()
    ]
    prepared = prepare(Dataset.from_list(examples))
    assert decoded(prepared, "prompt_ids") == [e["prompt"][:-1] for e in text_examples()]
    for completion in TRIPLE:
        rows = zip(prepared["prompt_ids"], prepared[f"{completion}_ids"], strict=True)
        texts = [tiny_tokenizer().decode(prompt + ids) for prompt, ids in rows]
        assert texts == [example[completion] + "</s>" for example in examples]


def test_a_response_without_the_implied_prompt_raises():
    dataset = Dataset.from_list([{"chosen": "Say a", "rejected": "Say b", "response": "c"}])
    with pytest.raises(ValueError, match="'response' to start with the prompt"):
        prepare(dataset)


def test_reference_column_raises_and_explains():
    with pytest.raises(ValueError, match=r"gold answer.*rename it to 'response'"):
        prepare(text_dataset().rename_column("response", "reference"))


def test_reference_column_beside_a_response_is_no_matter():
    dataset = text_dataset().add_column("reference", ["gold"] * 8)
    assert "response_ids" in prepare(dataset).column_names


def test_two_response_columns_raise():
    dataset = text_dataset().add_column("reference_response", ["x"] * 8)
    with pytest.raises(ValueError, match="got both"):
        prepare(dataset)


def test_a_missing_response_raises_and_names_alpha():
    dataset = text_dataset(drop=("response",))
    with pytest.raises(ValueError, match=r"column 'response'.*alpha=0 needs none"):
        prepare(dataset)
    assert "response_ids" not in prepare(dataset, completions=PAIR).column_names


def test_incomplete_tokens_raise_and_name_the_missing_columns():
    dataset = Dataset.from_list([IDS]).remove_columns(["response_ids", "chosen_ids"])
    with pytest.raises(ValueError, match="chosen_ids, response_ids missing"):
        prepare(dataset)


@pytest.mark.parametrize("value", [None, [{"role": "assistant", "content": "hi"}]])
def test_a_response_of_another_format_raises(value):
    dataset = Dataset.from_list([{**text_examples(1)[0], "response": value}])
    with pytest.raises(TypeError, match="'response' to be a str like 'chosen', got"):
        prepare(dataset)


@pytest.mark.parametrize("column", ["prompt_ids", "rejected_ids"])
def test_an_empty_prompt_or_completion_raises_and_names_the_row(column):
    dataset = Dataset.from_list([IDS, {**IDS, column: []}])
    with pytest.raises(ValueError, match=f"'{column}' is empty in row 1 of the eval dataset"):
        prepare(dataset, name="eval")


@pytest.mark.parametrize("column", ["prompt", "chosen", "response"])
@pytest.mark.parametrize("conversational", [False, True])
def test_an_empty_text_or_conversation_raises_and_names_the_row(column, conversational):
    full = text_examples(1)[0]
    if conversational:
        roles = {"prompt": "user"}
        full = {c: [{"role": roles.get(c, "assistant"), "content": t}] for c, t in full.items()}
    empty = {**full, column: [] if conversational else ""}
    dataset = Dataset.from_list([full, empty])
    with pytest.raises(ValueError, match=f"'{column}' is empty in row 1 of the eval dataset"):
        prepare(dataset, name="eval")


@pytest.mark.parametrize("role", ["user", "system"])
def test_a_completion_of_another_role_raises(role):
    example = {
        column: [{"role": "user" if column == "prompt" else "assistant", "content": "hi"}]
        for column in ("prompt", *TRIPLE)
    }
    example["response"] = [{"role": role, "content": "hi"}]
    with pytest.raises(ValueError, match=f"'response' to begin with an assistant's .* '{role}'"):
        prepare(Dataset.from_list([example]))


@pytest.mark.parametrize("ids", [[7.9], [-100, 3]])
def test_ids_that_are_no_tokens_raise_and_name_the_row(ids):
    dataset = Dataset.from_list([{**IDS, "response_ids": ids}])
    with pytest.raises(
        ValueError, match=rf"'response_ids' to hold token ids, got {ids[0]} in row 0"
    ):
        prepare(dataset)


@pytest.mark.parametrize("column", ["chosen", "rejected"])
def test_a_missing_pair_column_raises_and_is_named(column):
    dataset = text_dataset(1).remove_columns([column])
    with pytest.raises(ValueError, match=rf"\['{column}'\] missing, got"):
        prepare(dataset)


def test_an_empty_dataset_raises():
    with pytest.raises(ValueError, match="train dataset is empty"):
        prepare(Dataset.from_list([IDS]).select([]))


def test_images_are_refused():
    with pytest.raises(NotImplementedError, match="vision data"):
        prepare(text_dataset().add_column("image", ["x"] * 8))


def test_text_needs_an_end_token():
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="a tokenizer with an end token"):
        prepare_dataset(text_dataset(), tokenizer)


def test_several_processes_prepare_the_same():
    together = prepare(text_dataset(), num_proc=2, max_length=30)
    assert list(together) == list(prepare(text_dataset(), max_length=30))


def test_prompts_without_room_are_dropped_and_counted(caplog):
    dataset = Dataset.from_list([IDS, {**IDS, "prompt_ids": [5] * 9}])
    with caplog.at_level("WARNING", logger="selm_core.trl.data"):
        prepared = prepare(dataset, max_length=9)
    assert len(prepared) == 1
    assert "Dropped 1 of 2 examples" in caplog.text
    assert len(prepare(dataset, max_length=9, truncation_mode="keep_end")) == 2


def test_no_example_left_raises():
    with pytest.raises(ValueError, match=r"no example.*max_length=2"):
        prepare(Dataset.from_list([IDS]), max_length=2)


def test_streams_are_prepared_lazily():
    stream = IterableDataset.from_generator(lambda: iter(text_examples()))
    rows = list(prepare(stream, max_length=200))
    wanted = prepare(text_dataset())
    assert [row["response_ids"] for row in rows] == wanted["response_ids"][:]


@pytest.mark.parametrize("mode", ["keep_start", "keep_end"])
def test_labels_are_the_tokens_that_the_positions_predict(mode):
    example = {"prompt_ids": [1, 2, 3], "chosen_ids": [4, 5], "rejected_ids": [6, 7, 8, 9]}
    collate = DataCollatorForSELM(
        pad_token_id=0, max_length=5, truncation_mode=mode, completions=PAIR
    )
    batch = collate([example])
    x = -100
    if mode == "keep_start":
        assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5], [1, 2, 3, 6, 7]]
        assert batch["shift_labels"].tolist() == [[x, x, 4, 5, x], [x, x, 6, 7, x]]
    else:
        assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5], [3, 6, 7, 8, 9]]
        assert batch["shift_labels"].tolist() == [[x, x, 4, 5, x], [6, 7, 8, 9, x]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"truncation_mode": "keepend"}, "expected 'truncation_mode' .*, got 'keepend'"),
        ({"max_length": 1}, "expected 'max_length' .*, got 1"),
    ],
)
def test_truncation_that_would_be_misread_is_refused(options, message):
    with pytest.raises(ValueError, match=f"DataCollatorForSELM: {message}"):
        DataCollatorForSELM(pad_token_id=0, **options)
    with pytest.raises(ValueError, match=f"prepare_dataset: {message}"):
        prepare(text_dataset(), **options)


def test_equal_tokens_after_different_prompts_are_different_rows():
    """The same text, cut elsewhere, is scored over other tokens."""
    examples = [
        {"prompt_ids": [1, 2], "chosen_ids": [3, 4], "rejected_ids": [5], "response_ids": [6]},
        {"prompt_ids": [1], "chosen_ids": [2, 3, 4], "rejected_ids": [5], "response_ids": [6]},
    ]
    batch = DataCollatorForSELM(pad_token_id=0)(examples)
    assert batch["chosen_rows"].tolist() == [0, 1]
    assert len(batch["input_ids"]) == 6


def test_batches_are_padded_and_carry_reference_log_probabilities():
    examples = [
        {**IDS, "ref_chosen_logps": -1.0, "ref_rejected_logps": -2.0, "ref_response_logps": -3.0}
    ]
    batch = DataCollatorForSELM(pad_token_id=0, pad_to_multiple_of=8)(examples)
    assert batch["input_ids"].tolist()[0] == [5, 6, 7, END, 0, 0, 0, 0]
    assert batch["attention_mask"].tolist()[0] == [1, 1, 1, 1, 0, 0, 0, 0]
    assert batch["shift_labels"].tolist()[2] == [-100, 9] + [-100] * 6
    assert batch["ref_response_logps"].tolist() == [-3.0]
    assert next(iter(batch.values())).shape == (1,)  # the evaluation loop reads the batch size here
    assert batch["ref_chosen_logps"].dtype == torch.float32
