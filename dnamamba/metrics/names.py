"""Names of metrics, and numbers as people read them."""

from typing import Any

from dnamamba.files import is_number

PRIMARY_METRICS = {"accuracy": "accuracy", "auprc": "mean AUPRC", "r2": "R²"}
"""Model-selection metrics: key -> name."""

NAMES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "mcc": "MCC",
    "auroc": "mean AUROC",
    "auprc": "mean AUPRC",
    "f1": "mean F1",
    "ece": "calibration error",
    "auroc_micro": "AUROC over all",
    "auprc_micro": "AUPRC over all",
    "f1_micro": "F1 over all",
    "mcc_micro": "MCC over all",
    "r2": "R²",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "mae": "mean absolute error",
    "rmse": "root mean square error",
}


def shown(name: str, value: Any) -> str:
    """A number as people read it: accuracies in percent; "-" if there is none."""
    if not is_number(value):
        return "-"
    if name in ("accuracy", "balanced_accuracy"):
        return f"{100 * value:.1f} %"
    return f"{value:,.3f}" if abs(value) < 1000 else f"{value:,.5g}"


def signed(name: str, value: float) -> str:
    """A difference with its sign; accuracies in percent points."""
    if name in ("accuracy", "balanced_accuracy"):
        return f"{100 * value:+.1f}"
    return f"{value:+.3f}"
