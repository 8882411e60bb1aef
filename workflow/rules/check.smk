"""check: try every model and loss on the prepared data; what each loss computes; gradients."""


rule check:
    input:
        experiment="results/{experiment}/experiment.json",
        classes=dataset_files(EXPERIMENT, "classes.json"),
    output:
        "results/{experiment}/check.json",
    log:
        "results/{experiment}/check.log",
    conda:
        "../envs/lossbench.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=30,
    params:
        settings=settings_digest(EXPERIMENT.experiment_json()),
    shell:
        "python -P -m lossbench --log {log:q} check"
        " --experiment {input.experiment:q} --output {output:q}"
