"""The documentation: its code runs as printed, its links lead somewhere, its site builds.

C++, CUDA and CMake blocks are built in package/test_package_docs.py.
"""

import doctest
import importlib
import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import selm_core
import torch
from doc_commands import check_command, commands_of
from doc_pages import BLOCKS, PAGES, ROOT, Block, blocks_in
from selm_core.online.config_file import read_config_file

sys.path.insert(0, str(Path(__file__).parent / "trl"))

from tiny_models import tiny_llama, tiny_tokenizer

# Directives are built with the site; `text` is output, not code.
CHECKED = {"python", "sh", "toml", "cpp", "cuda", "cmake"}
NOT_CODE = {"text", "{toctree}", "{eval-rst}"}

# What a page's comments promise.
PRINTED = {"README.md": "5.0000e-05"}

API = {
    "selm_core": "python",
    "selm_core.numpy": "numpy",
    "selm_core.trl": "trl",
    "selm_core.online": "online",
}


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the files that the pages name: a model, data, a judge."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    tiny_llama().save_pretrained("path/of/a/model")
    tiny_tokenizer().save_pretrained("path/of/a/model")
    rows = [
        {"prompt": f"{i} + 1?", "chosen": f"{i + 1}", "rejected": "no", "response": "maybe"}
        for i in range(4)
    ]
    for name in ("train.jsonl", "prompts.jsonl"):
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("held_out.jsonl").write_text(json.dumps({"prompt": "9 + 1?"}) + "\n")
    Path("my_judges.py").write_text("def short_answers(prompts, completions):\n    return []\n")


def test_every_block_is_of_a_language_that_is_checked() -> None:
    unknown = {b.place: b.language for b in BLOCKS if b.language not in CHECKED | NOT_CODE}
    assert unknown == {}


@pytest.mark.parametrize("page", sorted({block.page for block in blocks_in("python")}))
def test_python_blocks_run(page: str, reader: None, capsys: pytest.CaptureFixture[str]) -> None:
    """A page's blocks run one after the other, as a reader would type them."""
    names: dict[str, object] = {}
    with torch.random.fork_rng():
        for block in blocks_in("python"):
            if block.page == page:
                lines = "\n" * block.line  # so that a traceback names the page's line
                exec(compile(lines + block.code, str(ROOT / page), "exec"), names)
    assert PRINTED.get(page, "") in capsys.readouterr().out


@pytest.mark.parametrize("block", blocks_in("sh"), ids=lambda block: block.place)
def test_commands_name_what_exists(block: Block) -> None:
    for words, line in commands_of(block):
        check_command(words, line, (ROOT / block.page).parent)


@pytest.mark.parametrize("block", blocks_in("toml"), ids=lambda block: block.place)
def test_toml_describes_a_run(block: Block, reader: None) -> None:
    Path("run.toml").write_text(block.code)
    assert read_config_file(Path("run.toml")).config.iterations == 3


def test_continuous_integration_runs_the_tests() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert ((ROOT / page).parent / link).exists(), link


@pytest.mark.parametrize(
    "module",
    [
        ".".join(path.relative_to(ROOT / "python").with_suffix("").parts)
        for path in sorted((ROOT / "python").rglob("*.py"))
        if ">>> " in path.read_text()
    ],
)
def test_examples_of_docstrings_run(module: str, reader: None) -> None:
    result = doctest.testmod(
        importlib.import_module(module),
        optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE,
    )
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("name", [name for name in selm_core.__all__ if name.endswith("_loss")])
def test_every_loss_explains_itself(name: str) -> None:
    text = getattr(selm_core, name).__doc__
    for section in ("Args:", "Returns:", "Raises:", "Example:"):
        assert section in text, section


@pytest.mark.parametrize("module", API)
def test_every_public_name_is_on_its_page(module: str) -> None:
    page = (ROOT / "docs" / "api" / f"{API[module]}.md").read_text()
    listed = re.findall(r"^\.\. auto(?!module)\w+:: (?:\w+\.)*(\w+)", page, re.M)
    assert sorted(listed) == sorted(importlib.import_module(module).__all__)


def test_every_header_is_on_one_page() -> None:
    pages = "".join(path.read_text() for path in (ROOT / "docs" / "api").glob("*.md"))
    listed = re.findall(r"^\.\. doxygenfile:: (\S+)$", pages, re.M)
    include = ROOT / "include" / "selm"
    headers = [str(path.relative_to(include)) for path in include.rglob("*") if path.is_file()]
    assert sorted(listed) == sorted(headers)


def undocumented(xml: Path) -> list[str]:
    """Structs, classes and names of namespaces whose comment is empty."""
    silent = []
    for path in [
        *xml.glob("struct*.xml"),
        *xml.glob("class*.xml"),
        *xml.glob("namespaceselm*.xml"),
    ]:
        compound = ElementTree.parse(path).getroot().find("compounddef")
        assert compound is not None
        is_namespace = compound.get("kind") == "namespace"
        for node in compound.iterfind("sectiondef/memberdef") if is_namespace else [compound]:
            comments = [*node.iterfind("briefdescription"), *node.iterfind("detaileddescription")]
            if not "".join(text for comment in comments for text in comment.itertext()).strip():
                silent.append(node.findtext("qualifiedname") or node.findtext("compoundname") or "")
    return silent


@pytest.mark.slow
def test_the_site_builds_without_warnings_and_has_contents() -> None:
    if shutil.which("doxygen") is None:
        pytest.skip("doxygen is not installed")
    built = subprocess.run(
        ["make", "docs", f"ENV={sys.prefix}"], cwd=ROOT, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stdout + built.stderr
    html = ROOT / "build" / "docs" / "html"
    assert 'id="selm_core.dpo_loss"' in (html / "api" / "python.html").read_text()
    assert 'class="math' in (html / "mathematics.html").read_text()
    for page, name in (("core", "SigmoidLoss"), ("host", "dpo_loss"), ("cuda", "token_logps")):
        assert re.search(rf'id="_CPPv4\w*{name}', (html / "api" / f"{page}.html").read_text()), name
    assert (
        "Log-probabilities of labels from hidden states"
        in (html / "api" / "torch.html").read_text()
    )
    assert undocumented(ROOT / "build" / "docs" / "doxygen" / "xml") == []
