"""The config, cut into canonical JSON files: a job reruns when the text of its own file changes."""


localrules:
    configure_experiment,
    configure_dataset,
    configure_tuning,
    configure_block,


rule configure_experiment:
    output:
        "results/{experiment}/experiment.json",
    log:
        "results/{experiment}/configure.log",
    conda:
        "../envs/lossbench.yaml"
    params:
        json=lambda wildcards: EXPERIMENT.experiment_json(),
    shell:
        "printf '%s\\n' {params.json:q} > {output:q} 2> {log:q}"


rule configure_dataset:
    output:
        "results/datasets/{dataset}/dataset.json",
    log:
        "results/datasets/{dataset}/configure.log",
    conda:
        "../envs/lossbench.yaml"
    params:
        json=lambda wildcards: dataset_json(wildcards.dataset),
    shell:
        "printf '%s\\n' {params.json:q} > {output:q} 2> {log:q}"


rule configure_tuning:
    output:
        "results/{experiment}/{dataset}/{model}/fold{fold}/tuning.json",
    log:
        "results/{experiment}/{dataset}/{model}/fold{fold}/configure.log",
    conda:
        "../envs/lossbench.yaml"
    params:
        json=lambda wildcards: EXPERIMENT.tuning_json(**fold_keys(wildcards)),
    shell:
        "printf '%s\\n' {params.json:q} > {output:q} 2> {log:q}"


rule configure_block:
    input:
        wait_for_look,
    output:
        "results/{experiment}/{dataset}/{model}/fold{fold}/seed{seed}/block.json",
    log:
        "results/{experiment}/{dataset}/{model}/fold{fold}/seed{seed}/configure.log",
    conda:
        "../envs/lossbench.yaml"
    params:
        json=lambda wildcards: block_json(EXPERIMENT, RESULTS, **keys(wildcards)),
    shell:
        "printf '%s\\n' {params.json:q} > {output:q} 2> {log:q}"
