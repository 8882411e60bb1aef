"""Claims: statements about losses, each with the evidence that it is held against."""

from typing import Literal

from pydantic import Field, model_validator

from lossbench.config.sections import Name, Strict


class ComparisonClaim(Strict):
    """On a class, a loss is better or worse than another, or equivalent to it."""

    loss: Name = Field(description="The loss that it is about.")
    against: Name = Field(description="The other loss.")
    metric: str = Field("dice", description="Metric that is compared.")
    of_class: str = Field(alias="class", description="Name of the class.")
    expect: Literal["better", "worse", "equivalent"] = Field(description="Verdict on the loss.")


class LedgerClaim(Strict):
    """A class has the largest or smallest share of a loss, or all have about the same."""

    loss: Name = Field(description="The loss that it is about.")
    share: Literal["value", "l1", "l2"] = Field(description="Of the value, or of logit gradients.")
    at: Literal["start", "end"] = Field(description="Of the training.")
    of_class: str | None = Field(None, alias="class", description="Name of the class.")
    expect: Literal["largest", "smallest", "equal"] = Field(
        description="Share of the class among those of all classes."
    )

    @model_validator(mode="after")
    def _has_class(self) -> "LedgerClaim":
        if (self.of_class is None) != (self.expect == "equal"):
            raise ValueError("name a class, and none where shares are expected to be equal")
        return self


class CardClaim(Strict):
    """What a loss computes, by its semantics card."""

    loss: Name = Field(description="The loss that it is about.")
    property: str = Field(description="A row of the card, such as background_gradient.")
    expect: str = Field(description="What stands in that row.")


class Claim(Strict):
    """A statement, and the evidence that it is held against: one of the three."""

    claim: str = Field(description="The statement, in words.")
    source: str = Field("", description="Who says so.")
    comparison: ComparisonClaim | None = Field(None, description="Evidence: a verdict.")
    ledger: LedgerClaim | None = Field(None, description="Evidence: shares in the ledger.")
    card: CardClaim | None = Field(None, description="Evidence: what the loss computes.")

    @model_validator(mode="after")
    def _has_one_evidence(self) -> "Claim":
        if len([x for x in (self.comparison, self.ledger, self.card) if x]) != 1:
            raise ValueError("expected exactly one of comparison, ledger and card")
        return self

    def losses(self) -> list[tuple[tuple[str, str], str]]:
        """The losses that it is about, each with its keys."""
        kind = next(k for k in ("comparison", "ledger", "card") if getattr(self, k))
        evidence = getattr(self, kind)
        keys = ("loss", "against") if kind == "comparison" else ("loss",)
        return [((kind, key), getattr(evidence, key)) for key in keys]
