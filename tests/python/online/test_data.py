import pytest
from datasets import Dataset
from selm_core.online.data import portion, prompt_text, read_rows, rows_sha256, tokenize_prompt

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


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ([], "at least one row"),
        (["text"], r"d\[0\]: expected a mapping"),
        ([{"prompt": "a"}, {"text": "b"}], r"d\[1\]: expected a mapping with a 'prompt'"),
        ([{"prompt": "a", "chosen": "b"}], r"d\[0\]: expected both 'chosen' and 'rejected'"),
        ([{"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a"}], "a mixture"),
        ([{"prompt": " "}], "'prompt' to be text"),
        ([{"prompt": []}], "'prompt' to be text"),
        ([{"prompt": "a", "chosen": "", "rejected": "c"}], r"d\[0\]\['chosen'\]"),
        ([{"prompt": "a", "chosen": "b", "rejected": None}], r"d\[0\]\['rejected'\]"),
    ],
)
def test_what_is_not_a_row_is_refused_by_name(dataset, message):
    with pytest.raises(ValueError, match=message):
        read_rows(dataset, name="d")


@pytest.mark.parametrize(("count", "iterations"), [(9, 3), (10, 3), (3, 3), (5, 1), (7, 4)])
def test_portions_cover_every_row_once_and_differ_by_at_most_one(count, iterations):
    rows = read_rows([{"prompt": str(n)} for n in range(count)], name="d")
    portions = [portion(rows, t, iterations) for t in range(1, iterations + 1)]
    assert [row for part in portions for row in part] == rows
    assert max(map(len, portions)) - min(map(len, portions)) <= 1


def test_a_conversation_goes_through_the_chat_template_and_text_does_not(tokenizer):
    assert tokenizer.decode(tokenize_prompt(tokenizer, CONVERSATION)) == "<s>be kind<u>hi<a>"
    assert tokenizer.decode(tokenize_prompt(tokenizer, "hi")) == "hi"


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
