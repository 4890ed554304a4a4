"""How good a probe is on rows held out, and how much better than its baseline."""

from typing import Any

from dnamamba.metrics.bootstrap import Ids
from dnamamba.metrics.evaluation import Sides, evaluate_beside
from dnamamba.metrics.metrics import Scores
from dnamamba.task import Task

N_RESAMPLES = 1000
_ROUGH_BELOW = 10
_SIDES = Sides("The embeddings'", "the k-mer baseline's", "the embeddings do")


def evaluate_probe(
    model: Scores, baseline: Scores | None, task: Task, groups: Ids | None
) -> dict[str, Any]:
    """What probe.json keeps of the rows held out: `evaluate_beside` with intervals, and what is
    resampled. groups: (n,), the number of each row's group, from 0 up; None: rows by themselves."""
    evaluated = evaluate_beside(
        model,
        baseline,
        task,
        groups,
        n_resamples=N_RESAMPLES,
        with_intervals=True,
        sides=_SIDES,
    )
    resampled = f"{len(model.scores):,} rows"
    if groups is not None:
        n = int(groups.max()) + 1
        rough = ", so few that intervals are rough" if n < _ROUGH_BELOW else ""
        resampled = f"{n:,} groups of rows{rough}"
    return evaluated | {"resampled": resampled}
