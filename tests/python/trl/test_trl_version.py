"""Without TRL, or with another version of it, the import says so."""

import subprocess
import sys

import pytest
import trl
from selm_core.trl._compat import MODULE_NAMES, TRAINER_METHODS, require_trl
from trl.trainer import dpo_trainer


def test_without_trl_the_error_says_what_to_install():
    code = "import sys; sys.modules['trl'] = None; import selm_core; import selm_core.trl"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode != 0
    assert "MissingPackageError: selm_core.trl needs TRL 1.16" in result.stderr
    assert "pip install 'trl==1.16.*'" in result.stderr


def test_a_broken_dependency_of_trl_is_reported_as_itself(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "trl"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "accelerate.logging", None)
    with pytest.raises((ImportError, RuntimeError), match="accelerate"):
        require_trl()


def test_an_untested_version_warns(monkeypatch):
    monkeypatch.setattr(trl, "__version__", "1.17.0")
    with pytest.warns(UserWarning, match=r"tested with TRL 1.16.*1\.17\.0"):
        require_trl()


def test_the_tested_version_is_silent(recwarn):
    require_trl()
    assert not recwarn.list


@pytest.mark.parametrize("name", TRAINER_METHODS)
def test_a_trainer_without_an_expected_method_is_an_error(monkeypatch, name):
    """Otherwise the subclass would silently train plain DPO."""
    for owner in dpo_trainer.DPOTrainer.__mro__:
        if name in vars(owner):
            monkeypatch.delattr(owner, name)
    with pytest.raises(ImportError, match=f"lacks {name}"):
        require_trl()


@pytest.mark.parametrize("name", MODULE_NAMES)
def test_a_module_without_an_expected_function_is_an_error(monkeypatch, name):
    monkeypatch.delattr(dpo_trainer, name)
    with pytest.raises(ImportError, match=f"lacks {name}"):
        require_trl()
