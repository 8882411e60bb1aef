"""report: one page, its figures, and tables in Markdown and LaTeX."""


rule report:
    input:
        experiment="results/{experiment}/experiment.json",
        check="results/{experiment}/check.json",
        cases="results/{experiment}/report/cases.parquet",
        runs="results/{experiment}/report/runs.csv",
        summary="results/{experiment}/report/summary.csv",
        comparisons="results/{experiment}/report/comparisons.csv",
    output:
        page="results/{experiment}/report/report.html",
        methods="results/{experiment}/report/methods.md",
        figures=directory("results/{experiment}/report/figures"),
        tables=directory("results/{experiment}/report/tables"),
    log:
        "results/{experiment}/report/report.log",
    conda:
        "../envs/lossbench.yaml"
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        settings=settings_digest(EXPERIMENT.experiment_json()),
    shell:
        "python -P -m lossbench --log {log:q} report"
        " --experiment {input.experiment:q} --output results/{wildcards.experiment:q}/report"
