"""check: make every model and loss and try them on the prepared data, before any training."""


rule check:
    input:
        experiment="results/{experiment}/experiment.json",
        classes=datasets("classes.json"),
    output:
        "results/{experiment}/check.json",
    log:
        "results/{experiment}/check.log",
    conda:
        "../envs/lossbench.yaml"
    resources:
        mem_mb=8000,
        runtime=30,
    shell:
        "python -m lossbench --log {log:q} check"
        " --experiment {input.experiment:q} --output {output:q}"
