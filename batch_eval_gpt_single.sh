#!/usr/bin/env bash
# A model behind OpenAI's API (key in OPENAI_API_KEY): predict, then evaluate. Run again, it resumes.
#   bash batch_eval_gpt_single.sh gpt-4-1106-preview 127500 [options of prediction.py]
set -euo pipefail

if [ "$#" -lt 2 ]; then
    echo "usage: bash $0 MODEL_NAME MODEL_MAX_LEN [options of prediction.py]" >&2
    exit 2
fi
model_name=$1 model_max_len=$2
shift 2
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
output_dir=${OUTPUT_DIR:-outputs/$model_max_len}

"${PYTHON:-python}" "$here/prediction.py" --backend openai --model-name "$model_name" \
    --model-max-len "$model_max_len" --output-dir "$output_dir" "$@"
for option in "$@"; do
    case $option in --plan | --plan=* | --check | --part | --part=*) exit 0 ;; esac # nothing to score, or not yet
done
"${PYTHON:-python}" "$here/evaluation.py" --output-dir "$output_dir" --model-name "$model_name"
