"""What a study is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from analysers.metrics.metric import declared, load_metric
from generation.errors import UserError


@dataclass(frozen=True)
class Options:
    """How to score and decide. `margin` and `tie_tolerance` are in units of `rank_by`.

    Without a margin that of the metric is taken (`Declaration.margin`); a metric that has none is
    not judged clean or broken.

    `workers` is the number of measuring processes; 0 measures in this process. None chooses: one a
    core, less one; none beside rendering on the CPU, whose cores wait for each other in every
    parallel loop, so that a second process costs more than the measuring itself.
    """

    metrics: tuple[str, ...] = ()
    rank_by: str = "brisque"
    tie_tolerance: float = 0.01
    margin: float | None = None
    workers: int | None = None

    @property
    def all_metrics(self) -> tuple[str, ...]:
        """SSIM and BRISQUE, the ranked metric, then the extra ones, each once."""
        return tuple(dict.fromkeys(("ssim", "brisque", self.rank_by, *self.metrics)))

    @property
    def ladders(self) -> str:
        """The ranked metric, if it judges a picture by itself and so can be tried on degraded
        controls; else ""."""
        return "" if declared(self.rank_by).needs else self.rank_by

    def __post_init__(self) -> None:
        """Raise UserError if a metric is unknown, lacks its weights or cannot be ranked by."""
        for name in self.all_metrics:
            load_metric(name).check()
        if declared(self.rank_by).better is None:
            raise UserError(
                f"{self.rank_by} describes a picture and cannot rank it.", field="rank_by"
            )
