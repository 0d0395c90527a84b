#!/usr/bin/env bash
# One process, the model spread over all visible GPUs: predict over the selected subsets and levels, then evaluate. Run again, it resumes.
#   bash batch_eval_single.sh /models/Yi-6B-200K yi-200k 199500 [options of prediction.py]
set -euo pipefail

if [ "$#" -lt 3 ]; then
    echo "usage: bash $0 MODEL_PATH MODEL_NAME MODEL_MAX_LEN [options of prediction.py]" >&2
    exit 2
fi
model_path=$1 model_name=$2 model_max_len=$3
shift 3
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
output_dir=${OUTPUT_DIR:-outputs/$model_max_len}

"${PYTHON:-python}" "$here/prediction.py" --model-path "$model_path" --model-name "$model_name" \
    --model-max-len "$model_max_len" --output-dir "$output_dir" --single-process "$@"
for option in "$@"; do
    case $option in --plan | --plan=* | --check | --part | --part=*) exit 0 ;; esac # nothing to score, or not yet
done
"${PYTHON:-python}" "$here/evaluation.py" --output-dir "$output_dir" --model-name "$model_name"
