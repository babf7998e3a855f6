import pytest
from datasets import Dataset
from selm_core.errors import InputError
from selm_core.online.data import (
    portion,
    prompt_text,
    read_rows,
    rows_sha256,
    shared_prompt,
    tokenize_prompts,
)
from tokenizers.normalizers import Replace

CONVERSATION = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]


def test_rows_of_a_dataset_of_prompts():
    rows = read_rows(
        Dataset.from_list([{"prompt": "a", "source": "x"}, {"prompt": "b", "source": "y"}]),
        name="d",
    )
    assert [(row.prompt, row.chosen, row.rejected) for row in rows] == [
        ("a", None, None),
        ("b", None, None),
    ]


def test_rows_of_conversations_with_pairs():
    (row,) = read_rows(
        Dataset.from_list(
            [
                {
                    "prompt": CONVERSATION,
                    "chosen": [{"role": "assistant", "content": "good"}],
                    "rejected": [{"role": "assistant", "content": "bad"}],
                }
            ]
        ),
        name="d",
    )
    assert (row.prompt, row.chosen, row.rejected) == (CONVERSATION, "good", "bad")
    assert prompt_text(row.prompt) == "hi"


def message(role, content):
    return {"role": role, "content": content}


def pair(chosen, rejected="c"):
    return [{"prompt": "a", "chosen": chosen, "rejected": rejected}]


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ([], "d: expected at least one row"),
        (["text"], r"d\[0\]: expected a mapping"),
        ([{"prompt": "a"}, {"text": "b"}], r"d\[1\]: expected a mapping with a 'prompt'"),
        ([{"prompt": "a", "chosen": "b"}], r"d\[0\]: expected both 'chosen' and 'rejected'"),
        ([*pair("b"), {"prompt": "a"}], "a mixture"),
        (pair(""), r"d\[0\]\['chosen'\]: expected text or one message"),
        (pair("b", None), r"d\[0\]\['rejected'\]: expected text or one message"),
        (pair([]), r"d\[0\]\['chosen'\]: expected text or one message"),
        (pair([message("assistant", "b")] * 2), "expected text or one message"),
        (pair([message("user", "b")]), r"d\[0\]\['chosen'\]: expected the assistant's message"),
        (pair([message("assistant", " ")]), r"\['chosen'\]\[0\]\['content'\]: expected text"),
    ],
)
def test_what_is_not_a_row_is_refused_by_name(dataset, message):
    with pytest.raises(InputError, match=message):
        read_rows(dataset, name="d")


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (" ", ": expected text or messages that are not empty, got ' '"),
        (None, ": expected text or messages"),
        ([], ": expected text or messages"),
        (["hi"], r"\[0\]: expected a message with 'role' and 'content', got 'hi'"),
        ([{"content": "hi"}], r"\[0\]: expected a message with 'role'"),
        ([message("human", "hi")], r"\[0\]\['role'\]: expected one of .*got 'human'"),
        ([message("user", "")], r"\[0\]\['content'\]: expected text that is not empty, got ''"),
        ([message("user", None)], r"\[0\]\['content'\]: expected text"),
        (
            [message("user", [{"type": "image"}, {"type": "text", "text": "what?"}])],
            r"\[0\]\['content'\]: expected text that is not empty, got \[\{'type': 'image'",
        ),
        (
            [message("user", "hi"), message("assistant", "hello")],
            ": expected the user's turn at the end, got the assistant's",
        ),
        ([message("system", "be kind")], ": expected the user's turn at the end, got the system's"),
    ],
)
def test_what_is_not_a_prompt_is_refused_by_name(prompt, message):
    with pytest.raises(InputError, match=r"^d\[1\]\['prompt'\]" + message):
        read_rows([{"prompt": "a"}, {"prompt": prompt}], name="d")


@pytest.mark.parametrize(("count", "iterations"), [(9, 3), (10, 3), (3, 3), (5, 1), (7, 4)])
def test_portions_cover_every_row_once_and_differ_by_at_most_one(count, iterations):
    rows = read_rows([{"prompt": str(n)} for n in range(count)], name="d")
    portions = [portion(rows, t, iterations) for t in range(1, iterations + 1)]
    assert [row for part in portions for row in part] == rows
    assert max(map(len, portions)) - min(map(len, portions)) <= 1


def tokenized(tokenizer, *prompts):
    return tokenize_prompts(
        tokenizer, read_rows([{"prompt": p} for p in prompts], name="d"), name="d"
    )


def test_a_conversation_goes_through_the_chat_template_and_text_does_not(tokenizer):
    conversation, text = tokenized(tokenizer, CONVERSATION, "hi")
    assert tokenizer.decode(conversation) == "<s>be kind<u>hi<a>"
    assert tokenizer.decode(text) == "hi"


def test_a_prompt_without_tokens_is_refused_by_name(tokenizer):
    tokenizer.backend_tokenizer.normalizer = Replace("q", "")
    with pytest.raises(InputError, match=r"d\[1\]\['prompt'\]: expected text that gives tokens"):
        tokenized(tokenizer, "a", "qqq")


def test_a_conversation_that_the_chat_template_refuses_is_named(tokenizer):
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    )
    with pytest.raises(InputError, match=r"d\[1\]\['prompt'\].*refuses it: no system role"):
        tokenized(tokenizer, "hi", CONVERSATION)
    tokenizer.chat_template = None
    with pytest.raises(InputError, match=r"d\[0\]\['prompt'\].*no chat template"):
        tokenized(tokenizer, CONVERSATION)


def test_a_shared_prompt_is_found_whatever_the_order_of_its_keys():
    (row,) = read_rows([{"prompt": [{"content": "hi", "role": "user"}]}], name="d")
    others = read_rows([{"prompt": "hi"}, {"prompt": [message("user", "hi")]}], name="d")
    assert shared_prompt([row], others[:1]) is None
    assert shared_prompt([row], others) == row.prompt


def test_the_hash_sees_each_field():
    def sha256(**row):
        return rows_sha256(read_rows([row], name="d"))

    rows = [
        {"prompt": "a"},
        {"prompt": "b"},
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": "a", "chosen": "c", "rejected": "b"},
    ]
    assert len({sha256(**row) for row in rows}) == 4
