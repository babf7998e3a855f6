from selm_core.demo.prompts import load_prompts

SPLITS = {
    split: [row["prompt"][-1]["content"] for row in load_prompts(split)]
    for split in ("train", "dev", "held_out")
}


def test_every_split_is_there():
    assert {split: len(questions) for split, questions in SPLITS.items()} == {
        "train": 96,
        "dev": 24,
        "held_out": 32,
    }


def test_no_prompt_occurs_twice_in_any_wording_of_case_or_space():
    questions = [" ".join(q.lower().split()) for split in SPLITS.values() for q in split]
    assert len(set(questions)) == len(questions)


def test_prompts_are_short_questions():
    for question in (q for split in SPLITS.values() for q in split):
        assert question.endswith("?")
        assert 3 <= len(question.split()) <= 14
