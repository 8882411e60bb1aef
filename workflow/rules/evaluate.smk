"""evaluate: counts, MONAI's DiceMetric and surface metrics, per run x case x class."""


rule evaluate:
    input:
        block="results/{experiment}/{dataset}/{model}/fold{fold}/seed{seed}/block.json",
        classes="results/datasets/{dataset}/classes.json",
        rates=rates,
        model=expand(
            "results/{{experiment}}/{{dataset}}/{{model}}/fold{{fold}}/seed{{seed}}/{loss}/model.safetensors",
            loss=always_trained(EXPERIMENT),
        ),
    output:
        "results/{experiment}/{dataset}/{model}/fold{fold}/seed{seed}/cases.parquet",
    log:
        "results/{experiment}/{dataset}/{model}/fold{fold}/seed{seed}/evaluate.log",
    benchmark:
        "results/{experiment}/{dataset}/{model}/fold{fold}/seed{seed}/evaluate.benchmark.tsv"
    conda:
        "../envs/lossbench.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=16000,
        runtime=240,
    params:
        settings=block_settings,
    shell:
        "python -P -m lossbench --log {log:q} evaluate"
        " --block {input.block:q} --data results/datasets/{wildcards.dataset:q}"
        " --output {output:q} --threads {threads}"
