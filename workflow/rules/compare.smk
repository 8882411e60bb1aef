"""compare: each loss against the reference, per class: difference, interval, verdict.

A study in rounds looks after each: what the look leaves open is trained for one round more.
"""


checkpoint look:
    input:
        experiment="results/{experiment}/experiment.json",
        cases=cases,
        earlier=earlier_look,
    output:
        "results/{experiment}/looks/round{round}.json",
    log:
        "results/{experiment}/looks/round{round}.log",
    conda:
        "../envs/lossbench.yaml"
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        settings=settings_digest(EXPERIMENT.experiment_json()),
    shell:
        "python -P -m lossbench --log {log:q} look"
        " --experiment {input.experiment:q} --after {wildcards.round} --output {output:q}"


rule compare:
    input:
        experiment="results/{experiment}/experiment.json",
        cases=cases,
        looks=looks,
        # Cards, for claims about what a loss computes.
        check="results/{experiment}/check.json",
    output:
        cases="results/{experiment}/report/cases.parquet",
        runs="results/{experiment}/report/runs.csv",
        summary="results/{experiment}/report/summary.csv",
        comparisons="results/{experiment}/report/comparisons.csv",
        pooled="results/{experiment}/report/pooled.csv",
        conventions="results/{experiment}/report/conventions.csv",
        ranks="results/{experiment}/report/ranks.csv",
        collapses="results/{experiment}/report/collapses.csv",
        failures="results/{experiment}/report/failures.csv",
    log:
        "results/{experiment}/report/compare.log",
    conda:
        "../envs/lossbench.yaml"
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        settings=settings_digest(EXPERIMENT.experiment_json()),
    shell:
        "python -P -m lossbench --log {log:q} compare"
        " --experiment {input.experiment:q} --output results/{wildcards.experiment:q}/report"
