"""The benchmarks measure what they say: run here on tiny shapes."""

import importlib
import math
import re
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
EAGER = ("selm_core", "TRL eager", "TRL fused", "torch linear_cross_entropy, 4 chunks")


@pytest.fixture(scope="module")
def bench():
    """Imports a module of the benchmarks as where they run."""
    folder = str(ROOT / "benchmarks")
    sys.path.insert(0, folder)
    yield lambda name: importlib.import_module(f"bench_{name}")
    sys.path.remove(folder)


def tiny_batch(bench, dtype=torch.float32, fraction=0.4):
    inputs = bench("inputs")
    shape = inputs.Shape("tiny", width=48, vocab=700, batch=4, time=20)
    return inputs.make_batch(shape, dtype, fraction, CPU)


def autograd_truth(batch):
    """By torch's own differentiation, in float64."""
    hidden = batch.hidden.double().requires_grad_()
    weight = batch.weight.double().requires_grad_()
    labels = batch.labels.clamp(min=0).unsqueeze(-1)
    logps = (hidden @ weight.T).log_softmax(-1).gather(-1, labels).squeeze(-1) * batch.valid
    return logps.detach(), torch.autograd.grad(logps, (hidden, weight), batch.upstream.double())


@pytest.mark.parametrize("fraction", [0.3, 0.6, 1.0])
def test_a_batch_looks_like_language(bench, fraction):
    batch = tiny_batch(bench, fraction=fraction)
    counted = batch.valid.sum(1)
    assert counted.sum() == 4 * round(fraction * 20)
    assert len(set(counted.tolist())) == (1 if fraction == 1.0 else 2)
    logps, _ = autograd_truth(batch)
    assert 0.8 < -logps.sum() / batch.valid.sum() < 2.2
    compacted = batch.compacted()
    assert compacted.valid.all()
    torch.testing.assert_close(
        autograd_truth(compacted)[0].flatten(), logps[batch.valid], rtol=1e-12, atol=0
    )


def test_the_truth_is_the_truth(bench):
    batch = tiny_batch(bench)
    truth = bench("measure").truth_of(batch)
    logps, (grad_hidden, grad_weight) = autograd_truth(batch)
    for got, expected in (
        (truth.logps, logps),
        (truth.gradients["hidden"], grad_hidden),
        (truth.gradients["weight"], grad_weight),
    ):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", [*EAGER, "Liger"])
def test_methods_compute_the_same(bench, name):
    """Liger's head is compiled by default, which takes long and changes no result."""
    peers, measure = bench("peers"), bench("measure")
    method = peers.methods(CPU)[name]
    if isinstance(method, str):
        pytest.skip(f"{name}: {method}")
    batch = tiny_batch(bench)
    truth = measure.truth_of(batch)
    with torch.compiler.set_stance("force_eager"):
        found = measure.errors_of(method, measure.run(method, batch, "full"), batch, truth)
    assert ("logps" in found) == method.per_token
    assert {"hidden", "weight"} <= found.keys()
    assert all(error < 3e-6 for error in found.values())
    if not method.per_token:
        return  # a loss, whose gradient is computed beforehand
    wrong = peers.Method(lambda *given: 1.01 * method.score(*given), method.per_token)
    found = measure.errors_of(wrong, measure.run(wrong, batch, "full"), batch, truth)
    assert found["weight"] == pytest.approx(0.01, rel=1e-3)


def test_the_peak_counts_everything_but_the_returned_gradients(bench):
    measure = bench("measure")
    size = 1 << 20

    def call():
        scratch = torch.empty(3 * size, dtype=torch.uint8)
        grad = torch.empty(5 * size, dtype=torch.uint8)
        del scratch
        late = torch.empty(2 * size, dtype=torch.uint8)
        return measure.Result(late, {"weight": grad.view(5, size)})

    assert measure.peak_bytes(call, CPU) == 3 * size


def test_the_bare_products_are_those_of_the_passes(bench):
    batch = tiny_batch(bench)
    x, w = batch.hidden[batch.valid], batch.weight
    z = x @ w.T
    expected = {"logits": z, "dX": z @ w, "dW": z.T @ x}
    products = bench("measure").bare_products(batch, "full")
    assert products.keys() == expected.keys()
    for name, layouts in products.items():
        for layout, product in layouts.items():
            got = product()
            got = got if got.shape == expected[name].shape else got.T
            torch.testing.assert_close(got, expected[name], rtol=1e-4, atol=1e-3, msg=layout)


def test_a_case_is_measured_and_shown(bench, tmp_path, monkeypatch):
    linear, tables, files = bench("linear_logps"), bench("tables"), bench("files")
    peers = bench("peers")
    broken = peers.Method(lambda *_: math.nan / 0)
    found = {n: m for n, m in peers.methods(CPU).items() if n in EAGER}
    found |= {"broken": broken, "absent": "no_such_package is not installed"}
    monkeypatch.setattr(linear, "methods", lambda _: found)
    shape = bench("inputs").Shape("tiny", width=48, vocab=700, batch=4, time=20)
    results = [
        linear.measure(linear.Case(shape, torch.bfloat16, 0.4, mode, layout), CPU, 2)
        for mode, layout in (("full", "padded"), ("no gradient", "compacted"))
    ]
    for result in results:
        assert result["methods"]["broken"]["missing"] == "ZeroDivisionError: float division by zero"
        for name in (*EAGER, peers.LEAN):
            assert result["methods"][name]["seconds"] > 0
        text = tables.case_table(result)
        for name in ("selm_core, lean", *found):
            assert re.search(rf"^{re.escape(name)} ", text, re.M), name
    assert results[0]["methods"]["selm_core"]["errors"].keys() == {"logps", "hidden", "weight"}
    assert results[1]["methods"]["selm_core"]["errors"].keys() == {"logps"}

    page, plots = bench("page"), tmp_path / "docs"
    plots.mkdir()
    (plots / "performance.md").write_text((ROOT / "docs" / "performance.md").read_text())
    monkeypatch.setattr(files, "FOLDER", tmp_path)
    monkeypatch.setattr(page, "DOCS", plots)
    files.save("linear_logps", CPU, True, 2, results)
    logps = bench("logps")
    files.save("logps", CPU, True, 2, [measured_operators(logps)])
    trainers = {
        name: {"seconds": k + 2.0, "spread": 0.1, "peak_bytes": 2**30, "gradient_norm": 1.5}
        for k, name in enumerate(bench("step").TRAINERS)
    }
    files.save("step", CPU, True, 2, {"float32": {"batch": "two pairs", "trainers": trainers}})
    page.write_page()
    written = (plots / "performance.md").read_text()
    assert "| tiny 48 x 700, bfloat16, full, 32 of 80 |" in written
    assert "| SELMTrainer, alpha 0 | 4.00 | 10% | 2.00 | 1,024 | 1.50 |" in written
    assert "| selm_core sequence_logps |" in written
    assert "absent: no_such_package is not installed" in written
    assert (plots / "performance-time-cpu.svg").read_text().startswith("<?xml")


def test_an_interrupted_run_goes_on_with_the_same_build_only(bench, tmp_path, monkeypatch):
    linear, files = bench("linear_logps"), bench("files")
    monkeypatch.setattr(files, "FOLDER", tmp_path)
    todo = list(linear.cases(linear.SHAPES["cpu"]))
    assert linear.left_by_last_run(todo, CPU, False, 5) == {}
    rows = [case.described() | {"rows": 3} for case in todo[2:5]]
    files.save("linear_logps", CPU, False, 5, rows)
    left = linear.left_by_last_run(todo, CPU, False, 5)
    assert left == dict(zip(todo[2:5], rows, strict=True))
    files.save("linear_logps", CPU, True, 5, rows)
    with pytest.raises(SystemExit, match=r"--resume: expected .* conditions 'Measured.*A quick"):
        linear.left_by_last_run(todo, CPU, False, 5)
    files.save("linear_logps", CPU, False, 5, rows)
    monkeypatch.setattr(linear, "library", lambda: "another build")
    with pytest.raises(SystemExit, match="library 'another build'"):
        linear.left_by_last_run(todo, CPU, False, 5)


def measured_operators(logps):
    return logps.measure(logps.make_logits((2, 9, 500), torch.float32, CPU), 2)


def test_operators_on_logits_are_measured(bench):
    report = measured_operators(bench("logps"))
    assert report["read"] > 0
    for found in report["methods"].values():
        assert found["forward"] > 0
        assert found["backward"] > 0


def test_long_runs_cover_what_is_promised(bench):
    linear = bench("linear_logps")
    for device, shapes in linear.SHAPES.items():
        cases = list(linear.cases(shapes))
        assert len(cases) == len(set(cases)) == 9 * len(shapes), device
        assert {case.mode for case in cases} == set(bench("measure").MODES)
