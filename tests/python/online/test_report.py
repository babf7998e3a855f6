import json
import re
from dataclasses import asdict
from html.parser import HTMLParser

import pytest
from selm_core.online.evaluate import Evaluation, JudgedResponse
from selm_core.online.record import IterationRecord, read_record, write_record, write_responses
from selm_core.online.report import write_report
from selm_core.online.state import RunFolder
from selm_core.online.summary import summary_line
from selm_core.online.training import Training

LOADING_ATTRIBUTES = {"src", "srcset", "data", "action", "poster", "background"}


def evaluation(score, **changes):
    fields = {
        "parts": {"tone": score / 2},
        "finish_rate": 0.5,
        "response_tokens": 12.5,
        "win_rate": 0.75,
        "kl": 2.5,
    }
    return Evaluation(score=score, invalid_scores={}, **{**fields, **changes})


def record(number, judged):
    steps = [{"loss": 0.7, "reward_margin": 0.1, "reward_accuracy": 0.5, "exploration": -1e-4}] * 2
    training = (
        Training({name: value for name, value in steps[0].items()}, steps) if number else None
    )
    dropped = {"tie": 2} if number else {}
    return IterationRecord(
        number, 8 * bool(number), 6 * bool(number), {}, dropped, training, judged, {"train": 3.0}
    )


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path / "run", {"config": {"alpha": 0.001}, "judge": "a<b"})
    for number, score in enumerate((1.0, 1.5)):
        prompt = [{"role": "user", "content": "How & <why>?"}]
        with folder.commit(number, {"torch": "2.0"}) as destination:
            write_record(destination, record(number, evaluation(score)))
            write_responses(
                destination,
                [
                    JudgedResponse(
                        prompt, f"<script>answer {number}", number == 1, 7, score, None, {}
                    )
                ]
                * 10,
            )
    return folder.path


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.loaded, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name.split(":")[-1] in LOADING_ATTRIBUTES or (
                name.split(":")[-1] == "href" and not value.startswith("#")
            ):
                self.loaded.append((tag, name, value))

    def handle_data(self, data):
        self.text += data


def test_nothing_is_loaded_from_anywhere(run):
    text = write_report(run, title="t").read_text()
    page = Page(text)
    assert page.loaded == []
    assert not {"script", "link", "iframe", "img", "object", "embed"} & set(page.tags)
    assert "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\(['\"]?([^)'\"]*)", text))
    # what is left are names of XML vocabularies, which no browser fetches
    urls = {url for url in re.findall(r"\w+://[^\s\"'<>]+", text)}
    assert urls <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_numbers_samples_and_settings_are_there_and_escaped(run):
    page = Page(write_report(run, title="My <run>", notes=["a note"]).read_text())
    for expected in (
        "My <run>",
        "a note",
        "How & <why>?",
        "<script>answer 0",
        "<script>answer 1",
        "cut off",
        "a<b",
        "config.alpha",
        "1.000",
        "1.500",
        "6 of 8",
        "tie 2",
    ):
        assert expected in page.text
    assert page.tags.count("svg") == 9


def test_a_run_without_evaluation_has_a_report_too(tmp_path):
    folder = RunFolder(tmp_path, {})
    for number in range(2):
        with folder.commit(number, {}) as destination:
            write_record(destination, record(number, None))
    assert Page(write_report(tmp_path, title="t").read_text()).tags.count("svg") == 4


def test_a_record_survives_the_disk(tmp_path):
    for original in (record(0, None), record(1, evaluation(1.0))):
        write_record(tmp_path, original)
        assert read_record(tmp_path) == original
        assert json.loads((tmp_path / "record.json").read_text()) == asdict(original)


def test_the_summary_line():
    assert (
        summary_line(record(0, evaluation(1.0)))
        == "initial model | score 1.00 (tone +0.50) | finished 50% | 12.5 tokens"
    )
    assert summary_line(record(2, evaluation(1.5))) == (
        "iteration 2 | score 1.50 (tone +0.75) | finished 50% | 12.5 tokens | wins 75% | KL 2.5 | "
        "margin 0.1 | accuracy 0.5 | exploration -0.0001 | pairs 6/8 (dropped: tie 2)"
    )
