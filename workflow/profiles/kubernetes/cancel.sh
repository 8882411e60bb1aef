#!/bin/sh
exec kubectl delete job --wait=false "$@"
