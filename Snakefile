"""Which loss should I train with? Read this first, then workflow/rules, a file per stage."""


include: "workflow/rules/common.smk"
include: "workflow/rules/configure.smk"
include: "workflow/rules/prepare.smk"
include: "workflow/rules/check.smk"
include: "workflow/rules/tune.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/compare.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/track.smk"


rule all:
    default_target: True
    input:
        f"results/{EXPERIMENT.experiment}/report/report.html",
        f"results/{EXPERIMENT.experiment}/report/mlflow.json",


onsuccess:
    print_verdict()
