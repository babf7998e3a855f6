"""The TRL version that the trainer is written for, and what it needs of it."""

import warnings

from selm_core.errors import MissingPackageError

TESTED_TRL = "1.16"

# A method that TRL renamed would be left unused by the subclass, which would then train plain DPO
# without a word: every name that the subclass replaces or calls is therefore checked.
TRAINER_METHODS = (
    "_compute_loss",
    "_load_from_checkpoint",
    "_precompute_ref_logps",
    "_prepare_dataset",
    "_save_checkpoint",
    "_set_signature_columns_if_needed",
    "compute_ref_log_probs",
)
MODULE_NAMES = ("add_fused_lm_head", "use_adapter")


def require_trl() -> None:
    """Check that TRL is installed and has what the trainer builds on.

    Raises:
        MissingPackageError: TRL is missing, or lacks a method or function that the trainer replaces.

    Warns:
        UserWarning: the TRL version is not the tested one.
    """
    try:
        import trl
        from trl.trainer import dpo_trainer
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "trl":
            raise
        raise MissingPackageError(
            f"selm_core.trl needs TRL {TESTED_TRL}, which is not installed: "
            f"pip install 'trl=={TESTED_TRL}.*'"
        ) from error

    missing = [name for name in TRAINER_METHODS if not hasattr(dpo_trainer.DPOTrainer, name)]
    missing += [name for name in MODULE_NAMES if not hasattr(dpo_trainer, name)]
    if missing:
        raise MissingPackageError(
            f"selm_core.trl is written for TRL {TESTED_TRL}; the installed version "
            f"{trl.__version__} lacks {', '.join(missing)} in trl.trainer.dpo_trainer: "
            f"pip install 'trl=={TESTED_TRL}.*'"
        )
    if trl.__version__.split(".")[:2] != TESTED_TRL.split("."):
        warnings.warn(
            f"selm_core.trl is tested with TRL {TESTED_TRL}, not with the installed version "
            f"{trl.__version__}: results may differ from the documented ones",
            stacklevel=3,
        )
