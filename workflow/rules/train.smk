"""train: all losses of a block in one process, from the same weights on the same batches.

The same process then runs the stage evaluate: counts and metrics, per run x case x class. Runs that
are trained already are taken from the store, so that a new metric is measured without a training.
"""


rule train:
    input:
        block="results/{experiment}/{dataset}/{model}/fold{fold}/seed{seed}/block.json",
        classes="results/datasets/{dataset}/classes.json",
        rates=rates,
        check=checked,
    output:
        run=expand(
            "results/{{experiment}}/{{dataset}}/{{model}}/fold{{fold}}/seed{{seed}}/{loss}/run.json",
            loss=always_trained(EXPERIMENT),
        ),
        model=expand(
            "results/{{experiment}}/{{dataset}}/{{model}}/fold{{fold}}/seed{{seed}}/{loss}/model.safetensors",
            loss=always_trained(EXPERIMENT),
        ),
        history=expand(
            "results/{{experiment}}/{{dataset}}/{{model}}/fold{{fold}}/seed{{seed}}/{loss}/history.csv",
            loss=always_trained(EXPERIMENT),
        ),
        status=expand(
            "results/{{experiment}}/{{dataset}}/{{model}}/fold{{fold}}/seed{{seed}}/{loss}/status.json",
            loss=always_trained(EXPERIMENT),
        ),
        cases="results/{experiment}/{dataset}/{model}/fold{fold}/seed{seed}/cases.parquet",
        predictions="results/{experiment}/{dataset}/{model}/fold{fold}/seed{seed}/predictions.npz",
    log:
        "results/{experiment}/{dataset}/{model}/fold{fold}/seed{seed}/train.log",
    benchmark:
        "results/{experiment}/{dataset}/{model}/fold{fold}/seed{seed}/train.benchmark.tsv"
    conda:
        "../envs/lossbench.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=16000,
        runtime=1440,  # what many partitions end at
    params:
        settings=block_settings,
    shell:
        "python -P -m lossbench --log {log:q} train"
        " --block {input.block:q} --data results/datasets/{wildcards.dataset:q}"
        " --store results/runs --threads {threads} + evaluate"
        " --block {input.block:q} --data results/datasets/{wildcards.dataset:q}"
        " --output {output.cases:q} --threads {threads}"
