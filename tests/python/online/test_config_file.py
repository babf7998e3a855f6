import json
import sys

import pytest
from selm_core.online.config_file import ConfigFileError, import_judge, read_config_file

JUDGES = """
def length(prompts, completions):
    return [float(len(text)) for text in completions]

class Length:
    def __call__(self, prompts, completions):
        return length(prompts, completions)

class Scale:
    def __init__(self, factor):
        self.factor = factor

class NotCallable:
    pass

NUMBER = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch, tiny_model):
    """A working directory with a judge, prompts and a configuration that works."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    monkeypatch.delitem(sys.modules, "my_judges", raising=False)
    (tmp_path / "my_judges.py").write_text(JUDGES)
    (tmp_path / "train.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    (tmp_path / "eval.jsonl").write_text('{"prompt": "c"}\n')
    yield tmp_path
    sys.modules.pop("my_judges", None)


def toml(model, *, extra="", judge="my_judges:length", online="iterations = 1"):
    return f"""
model = "{model}"
judge = "{judge}"
train = "train.jsonl"
eval = "eval.jsonl"
{extra}
[online]
output_dir = "run"
{online}
[online.training]
alpha = 0.01
use_cpu = true
bf16 = false
[online.lora]
r = 2
"""


def test_a_toml_file_describes_a_run(folder, tiny_model):
    (folder / "c.toml").write_text(toml(tiny_model))
    online = read_config_file(folder / "c.toml")
    assert online.config.training == {"alpha": 0.01, "use_cpu": True, "bf16": False}
    assert online.config.lora == {"r": 2}
    assert [row.prompt for row in online.train_rows] == ["a", "b"]
    assert online.eval_prompts == ["c"]
    assert online.judge([], ["abc"]) == [3.0]


def test_a_json_file_does_too(folder, tiny_model):
    content = {
        "model": str(tiny_model),
        "judge": "my_judges:Length",
        "train": "train.jsonl",
        "online": {
            "output_dir": "run",
            "iterations": 2,
            "training": {"use_cpu": True, "bf16": False},
        },
    }
    (folder / "c.json").write_text(json.dumps(content))
    online = read_config_file(folder / "c.json")
    assert online.judge([], ["abc"]) == [3.0]
    assert online.eval_rows == []
    assert online.config.iterations == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extra": "jugde = 1"}, r"unknown \['jugde'\], expected some of"),
        ({"online": "iteration = 1"}, r"\[online\]: unknown \['iteration'\]"),
        ({"online": "iterations = 0"}, "expected 'iterations' to be a positive integer, got 0"),
        ({"online": "iterations = 3"}, "a row for each of 3 iterations"),
        ({"judge": "my_judges"}, "expected 'module:callable'"),
        (
            {"judge": "my_judges:width"},
            "expected a callable named 'width' in module 'my_judges', got None",
        ),
        ({"judge": "my_judges:NUMBER"}, "got 3"),
        ({"judge": "my_judges:Scale"}, "without required arguments: .*'factor'"),
        ({"judge": "my_judges:NotCallable"}, "expected a callable .*got <my_judges.NotCallable"),
        ({"judge": ".my_judges:length"}, "expected 'module:callable'"),
        ({"judge": "no_such_judges:length"}, "No module named 'no_such_judges'"),
        ({"judge": "__import__('os'):system"}, "No module named"),
        ({"extra": "= 3"}, "Invalid"),
        ({"online": 'dtype = "int8"'}, "expected 'dtype' to be one of"),
    ],
)
def test_mistakes_are_named(folder, tiny_model, options, message):
    (folder / "c.toml").write_text(toml(tiny_model, **options))
    with pytest.raises(ConfigFileError, match=message):
        read_config_file(folder / "c.toml")
    assert not (folder / "run").exists()


def test_files_that_are_not_there_or_not_json_lines_are_named(folder, tiny_model):
    with pytest.raises(ConfigFileError, match=r"expected a \.toml or a \.json file"):
        read_config_file(folder / "c.yaml")
    with pytest.raises(ConfigFileError, match=r"c\.toml"):
        read_config_file(folder / "c.toml")
    (folder / "c.toml").write_text(toml(tiny_model))
    (folder / "train.jsonl").write_text('{"prompt": "a"}\n{"prompt": \n')
    with pytest.raises(ConfigFileError, match=r"train\.jsonl, line 2"):
        read_config_file(folder / "c.toml")
    (folder / "train.jsonl").unlink()
    with pytest.raises(ConfigFileError, match=r"train\.jsonl"):
        read_config_file(folder / "c.toml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", r"expected an object at the top, got \[1\]"),
        ('{"model": 3, "judge": "j:j", "train": "t", "online": {}}', "'model' to be a str, got 3"),
        ('{"model": "m", "judge": "j:j", "train": "t", "online": 1}', "'online' to be a dict"),
    ],
)
def test_values_of_another_type_are_named(folder, content, message):
    (folder / "c.json").write_text(content)
    with pytest.raises(ConfigFileError, match=message):
        read_config_file(folder / "c.json")


def test_json_that_is_nested_too_deeply_is_named(folder, tiny_model):
    (folder / "c.json").write_text("[" * 100_000)
    with pytest.raises(ConfigFileError, match=r"c\.json: maximum recursion depth"):
        read_config_file(folder / "c.json")
    (folder / "c.toml").write_text(toml(tiny_model))
    (folder / "train.jsonl").write_text("[" * 100_000)
    with pytest.raises(ConfigFileError, match=r"train\.jsonl, line 1: maximum recursion depth"):
        read_config_file(folder / "c.toml")


def test_text_that_is_not_utf8_is_named_by_its_line(folder, tiny_model):
    (folder / "c.toml").write_text(toml(tiny_model))
    (folder / "train.jsonl").write_bytes(b'{"prompt": "a"}\n{"prompt": "\xff"}\n')
    with pytest.raises(ConfigFileError, match=r"train\.jsonl, line 2"):
        read_config_file(folder / "c.toml")


def test_a_missing_key_is_named(folder):
    (folder / "c.json").write_text('{"model": "m"}')
    with pytest.raises(ConfigFileError, match=r"missing \['judge', 'online', 'train'\]"):
        read_config_file(folder / "c.json")


def test_a_judge_whose_module_is_no_python_is_named(folder):
    (folder / "my_judges.py").write_text("def length(:")
    with pytest.raises(
        ConfigFileError, match=r"'my_judges:length' cannot be imported: .*my_judges"
    ):
        import_judge("my_judges:length")


def test_a_judge_of_an_installed_package_needs_no_file():
    assert import_judge("statistics:fmean")([1.0, 2.0]) == 1.5
