#!/bin/sh
# success, failed or running: what became of an SGE job. Its accounting follows its end by seconds.
if qstat -j "$1" >/dev/null 2>&1; then
    echo running
    exit
fi
for _ in 1 2 3 4 5 6 7 8 9 10; do
    if account=$(qacct -j "$1" 2>/dev/null); then
        echo "$account" | awk '/^failed/ {bad += $2} /^exit_status/ {bad += $2}
            END {print bad ? "failed" : "success"}'
        exit
    fi
    sleep 2
done
echo failed
