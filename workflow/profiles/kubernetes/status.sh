#!/bin/sh
# success, failed or running: what became of a Kubernetes Job.
answer=$(kubectl get job "$1" -o 'jsonpath={.status.conditions[?(@.status=="True")].type}' 2>&1)
case " $answer " in
    *" Failed "* | *NotFound*) echo failed ;;
    *" Complete "*) echo success ;;
    *) echo running ;; # also where the cluster does not answer at the moment
esac
