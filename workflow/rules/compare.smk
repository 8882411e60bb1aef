"""compare: each loss against the reference, per class: difference, interval, verdict."""


rule compare:
    input:
        experiment="results/{experiment}/experiment.json",
        cases=blocks("cases.parquet"),
    output:
        cases="results/{experiment}/report/cases.parquet",
        runs="results/{experiment}/report/runs.csv",
        summary="results/{experiment}/report/summary.csv",
        comparisons="results/{experiment}/report/comparisons.csv",
    log:
        "results/{experiment}/report/compare.log",
    conda:
        "../envs/lossbench.yaml"
    resources:
        mem_mb=4000,
        runtime=60,
    shell:
        "python -m lossbench --log {log:q} compare"
        " --experiment {input.experiment:q} --output results/{wildcards.experiment:q}/report"
