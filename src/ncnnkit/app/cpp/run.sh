#!/bin/sh
# run.sh INPUT [REFERENCE] [OPTIONS…]: every model of models/variants.txt on its backend, as a table.
#
# INPUT is an image or an array. REFERENCE (.npy or text) is the output to take the error
# against, as the original model's; by default the fp32 model's on the CPU. OPTIONS go to infer, as --threads=4.
# INFER names the program; by default it is looked for in build/.
set -eu
home=$(cd "$(dirname "$0")" && pwd)
for infer in "${INFER:-}" "$home"/build/*/infer "$home"/build/infer "$home"/infer; do
    [ -x "$infer" ] && break
done
[ -x "$infer" ] || { echo "run.sh: there is no infer yet: build it, or say where with INFER=" >&2; exit 1; }

[ $# -ge 1 ] || { sed -n '2s/^# //p' "$0" >&2; exit 2; }
input=$1 reference=
shift
case ${1:-} in '' | -*) ;; *) reference=$1; shift ;; esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
exec 3<"$home/models/variants.txt"
ran=

# A number of infer's JSON.
field() { sed -n "s/.*\"$1\": \([^,}]*\).*/\1/p" "$work/json"; }

printf '%-16s %10s %10s %10s %10s %10s %12s\n' variant 'load ms' 'first ms' 'median ms' 'p90 ms' 'memory MB' MSE
while read -r name precision backend model bounds <&3; do
    [ "$backend" = cpu ] && on=--cpu || on=--gpu
    if "$infer" "$home/models/$model.param" "$home/models/$model.bin" "$input" "$work/output.npy" --loop=50 --json \
        "--precision=$precision" $on ${reference:+"--compare=$reference"} "$@" >"$work/json" 2>"$work/error"; then
        if [ -z "$reference" ]; then # the first row is fp32 on the CPU, where there is one
            reference=$work/reference.npy
            cp "$work/output.npy" "$reference"
        fi
        ran=yes
        printf '%-16s %10.1f %10.2f %10.2f %10.2f %10.1f %12s\n' "$name" "$(field load_ms)" "$(field first)" \
            "$(field median)" "$(field p90)" "$(field peak_memory_mb)" "$(field mse)"
    else
        printf '%-16s %s\n' "$name" "$(head -n 1 "$work/error")"
    fi
done
[ -n "$ran" ]
