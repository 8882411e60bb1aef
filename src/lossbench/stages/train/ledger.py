"""How a run's loss pulls on its network along the training: columns of history.csv."""

from typing import TYPE_CHECKING

from lossbench.losses import batch_loss_of_copies, make_target, run_loss
from lossbench.losses.gradients import gradient_snapshot
from lossbench.models import preserve_buffers

if TYPE_CHECKING:
    from lossbench.stages.train.run import Run


class Ledger:
    """Gradients of a run's loss and of the reference, on images that stay the same.

    Parameters
    ----------
    run
        The training; its `execution.ledger` names the reference.
    """

    def __init__(self, run: "Run") -> None:
        # Half of a batch, for speed; normalisation over a batch needs two images.
        self.probe = run.batches(0).first(max(2, run.training["batch_size"] // 2))
        entry = run.execution["ledger"]["reference"]
        self.reference = run_loss({**run.spec, "loss": entry}, run.data).to(run.device)

    def row(self, run: "Run") -> dict[str, float]:
        """Norm, scale, cosine and each class's share, at the step that the run is at."""
        labels = self.probe.labels
        run.seed_step()
        with preserve_buffers(run.model):
            found = gradient_snapshot(
                {
                    name: batch_loss_of_copies(loss, labels, run.step, run.steps)
                    for name, loss in {"loss": run.loss, "reference": self.reference}.items()
                },
                run.predict(self.probe.images),
                make_target(labels, len(run.data.classes), run.data.regions),
                run.model.parameters(),
                reference="reference",
                split={"loss"},
            )
        row = {
            "ledger/norm": found.norms["loss"],
            "ledger/scale": found.scales["loss"],
            "ledger/cosine": found.cosines["loss"]["reference"],
        }
        for kind, shares in found.shares["loss"].items():
            named = zip(run.data.classes, shares, strict=True)
            row |= {f"ledger/{kind}/{class_}": share for class_, share in named}
        return row
