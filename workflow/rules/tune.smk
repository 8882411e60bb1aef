"""tune: the learning rate of each loss of a fold, on its training cases, before the blocks."""


rule tune:
    input:
        tuning="results/{experiment}/{dataset}/{model}/fold{fold}/tuning.json",
        classes="results/datasets/{dataset}/classes.json",
        check=checked_tuning,
    output:
        "results/{experiment}/{dataset}/{model}/fold{fold}/rates.json",
    log:
        "results/{experiment}/{dataset}/{model}/fold{fold}/tune.log",
    benchmark:
        "results/{experiment}/{dataset}/{model}/fold{fold}/tune.benchmark.tsv"
    conda:
        "../envs/lossbench.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=16000,
        runtime=1200,
    params:
        settings=lambda wildcards: settings_digest(
            EXPERIMENT.tuning_json(**fold_keys(wildcards))
        ),
    shell:
        "python -P -m lossbench --log {log:q} tune"
        " --tuning {input.tuning:q} --data results/datasets/{wildcards.dataset:q}"
        " --store results/runs --output {output:q} --threads {threads}"
