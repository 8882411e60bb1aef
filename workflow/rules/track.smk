"""track: MLflow runs from the files, by one process; training never talks to MLflow."""


localrules:
    track,


rule track:
    input:
        experiment="results/{experiment}/experiment.json",
        check="results/{experiment}/check.json",
        report="results/{experiment}/report/report.html",
    output:
        "results/{experiment}/report/mlflow.json",
    log:
        "results/{experiment}/report/track.log",
    conda:
        "../envs/lossbench.yaml"
    shell:
        "python -P -m lossbench --log {log:q} track"
        " --experiment {input.experiment:q} --output {output:q}"
