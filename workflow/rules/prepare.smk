"""prepare: a dataset of any kind -> arrays that later stages map, cases, folds, a picture."""


rule prepare:
    input:
        dataset="results/datasets/{dataset}/dataset.json",
    output:
        images="results/datasets/{dataset}/images.npy",
        labels="results/datasets/{dataset}/labels.npy",
        cases="results/datasets/{dataset}/cases.csv",
        picture="results/datasets/{dataset}/cases.png",
        classes="results/datasets/{dataset}/classes.json",
    log:
        "results/datasets/{dataset}/prepare.log",
    benchmark:
        "results/datasets/{dataset}/prepare.benchmark.tsv"
    conda:
        "../envs/lossbench.yaml"
    resources:
        mem_mb=8000,
        runtime=120,
    params:
        settings=lambda wildcards: settings_digest(dataset_json(wildcards.dataset)),
    shell:
        "python -P -m lossbench --log {log:q} prepare"
        " --dataset {input.dataset:q}"
        " --output results/datasets/{wildcards.dataset:q}"
