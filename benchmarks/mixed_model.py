"""Our variance components against REML of statsmodels: python -m benchmarks.mixed_model

Unbalanced results with crossed random effects of cases and blocks: one run has diverged and 5 % of the pairs
are missing. Prints the means over studies of estimates, standard errors and seconds. REML takes some 60 times
as long here, and more with more cases, which is why lossbench uses the method of moments.
"""

import argparse
import time
import warnings

import numpy as np
import pandas as pd
from statsmodels.regression.mixed_linear_model import MixedLM

from benchmarks.error_rates import Design, study
from lossbench.statistics import paired_difference

DESIGN = Design(3, 3, 15, 0.006, diverged=True)


def reml(folds: list[np.ndarray]) -> tuple[float, float, float, float, float]:
    """Mean, its standard error, and the components of case, block and residual."""
    rows = [
        (f"{f}.{i}", f"{f}.{s}", d)
        for f, fold in enumerate(folds)
        for (s, i), d in np.ndenumerate(fold)
        if not np.isnan(d)
    ]
    table = pd.DataFrame(rows, columns=["case", "block", "difference"])
    scale = table["difference"].std()
    table["difference"] /= scale
    effects = {"block": "0 + C(block)", "case": "0 + C(case)"}
    model = MixedLM.from_formula(
        "difference ~ 1", table, groups=np.ones(len(table)), vc_formula=effects
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a component at 0 is on the boundary
        fit = model.fit(reml=True)
    block, case = fit.vcomp * scale**2
    return (
        fit.fe_params.iloc[0] * scale,
        fit.bse_fe.iloc[0] * scale,
        case,
        block,
        fit.scale * scale**2,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=40)
    studies = parser.parse_args().studies
    generator, found, seconds = np.random.default_rng(0), {"ours": [], "REML": []}, [0.0, 0.0]
    for _ in range(studies):
        folds = study(generator, DESIGN)
        folds = [np.where(generator.random(f.shape) < 0.05, np.nan, f) for f in folds]
        start = time.perf_counter()
        d = paired_difference(folds)
        between = time.perf_counter()
        found["REML"].append(reml(folds))
        seconds[0] += between - start
        seconds[1] += time.perf_counter() - between
        found["ours"].append((d.mean, d.variance**0.5, *d.components[:3]))
    ours, other = (np.array(found[k]) for k in ("ours", "REML"))
    names = ["mean", "standard error", "case", "block", "residual"]
    truth = [0, np.nan, DESIGN.case**2, DESIGN.block**2, DESIGN.residual**2]
    table = pd.DataFrame({"truth": truth, "ours": ours.mean(0), "REML": other.mean(0)}, index=names)
    table["correlation"] = [np.corrcoef(a, b)[0, 1] for a, b in zip(ours.T, other.T, strict=True)]
    print(table.to_string(float_format="{:.3g}".format))
    print(
        f"ms a study: ours {1e3 * seconds[0] / studies:.2f}, REML {1e3 * seconds[1] / studies:.0f}"
    )
    print(f"spread of the means over studies: {ours[:, 0].std():.3g}, {other[:, 0].std():.3g}")


if __name__ == "__main__":
    main()
