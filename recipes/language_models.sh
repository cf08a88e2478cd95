# Sourced by recipes that train language models, after staged.sh and memories.sh: what is the same for every corpus.
#
# A recipe reads its options with `compare raw "$@"`, says by the variables below how large its models are and how they
# learn, and calls `check_language_models`. Its stage 1 makes `data`, by `prepare`; `train_and_score` has the others.
#
#   model width heads ffn    the architecture and its sizes; ffn is that of the continuous memory, see ffn_width
#   segment recent basis     tokens of a segment, of the short-term memory; basis functions and compressed vectors
#   batch streams            streams of a training, in all its processes together, and of an evaluation
#   training                 the optimiser, such as `adam`, its learning rates, and how long it goes
#   save_interval            updates between checkpoints, from which a training that was stopped goes on

adam="--optimizer adam --lr-scheduler cosine"

# Width of the feed-forward networks with which a memory's model has as many parameters as the continuous memory's. In
# each layer, C wide with H heads, the continuous memory has 3C² + 2N + 2H parameters: the projections of keys, values
# and output, a vector for μ and one for σ, and an offset of each for every head. The compressive memory has 4C², the
# convolution at its rate of 4; none has nothing. A unit of the feed-forward network has 2C + 1.
ffn_width() {  # memory
  local continuous=$((3 * width ** 2 + 2 * basis + 2 * heads)) own
  case $1 in
    none) own=0 ;;
    compressive) own=$((4 * width ** 2)) ;;
    *) own=$continuous ;;
  esac
  echo $((ffn + (continuous - own) / (2 * width + 1)))
}

check_language_models() {
  shown+="${shown:+ }--raw DIR"
  check_comparison
  [ $((batch % nproc)) -eq 0 ] || die "--nproc $nproc does not divide the batch of $batch streams"
  dir=${dir:-$root/runs/$(basename "$(dirname "$0")")-$size}
  data=$dir/data
}

# prepare ARGUMENT...: binarises `raw` into `data` with these arguments of prepare.sh.
prepare() {
  [ -n "$raw" ] || [ -e "$data/dict.txt" ] || die "give --raw, the folder of the text; the README says where to get it"
  [ -z "$raw" ] || "$root/preprocess/prepare.sh" --raw "$raw" --dest "$data" "$@"
}

# What a training says of its model, in a recipe that starts from nothing.
model_arguments() {  # memory
  echo "$model --decoder-embed-dim $width --decoder-attention-heads $heads --decoder-ffn-embed-dim $(ffn_width "$1")" \
    "--ltm-basis $basis --ltm-samples $basis --compressive-length $basis"
}

train_one() {  # memory, seed
  # shellcheck disable=SC2046,SC2086
  train "$dir/$1-seed$2" "$data" --tokens-per-sample $segment --stm-length $recent --document-boundaries reset \
    --batch-size $((batch / nproc)) $(model_arguments "$1") $(memory_arguments "$1") \
    --criterion ltm_cross_entropy $training --clip-norm 0.25 --seed "$2" \
    --save-interval-updates $save_interval --keep-interval-updates 1 --disable-validation --num-workers 0 \
    ${further[@]+"${further[@]}"}
}

# The validation and test splits, and the last of them again with the memory zeroed and swapped between streams.
score_one() {  # memory, seed
  local save=$dir/$1-seed$2 split last ablation
  for split in valid test; do
    [ -e "$data/$split.bin" ] || continue  # a corpus may have no test split
    score "$save" "$data" $split --split $split --batch-size $streams
    last=$split
  done
  [ "$1" != none ] || return 0
  for ablation in zero swap; do
    score "$save" "$data" "$last-$ablation" --split "$last" --batch-size $streams --ablation $ablation
  done
}

train_and_score() {
  if stage 2 "train"; then for_each_run train_one; fi

  if stage 3 "score"; then for_each_run score_one; fi

  if stage 4 "perplexity"; then
    "$venv/python" -m recipes.language_models "$dir" --command "$command"
    "$venv/python" -m recipes.plot "$dir/results.json"
  fi
}
