#!/usr/bin/env bash
# Spoken English digits to German number words while they are spoken, with several encoders.
#
#   recipes/digits_speech/run.sh --raw DIR --jobs 2       all encoders: 90 minutes on two cores
#   recipes/digits_speech/run.sh --raw DIR --split valid  to tune with
#   recipes/digits_speech/run.sh --raw DIR --tiny         two minutes: shows that all works
#   recipes/digits_speech/run.sh --help                   all options; with --dry-run, commands are printed and none is run
. "$(dirname "$0")/../stages.sh"

# Stage 0. Install everything into .venv. About 5 minutes the first time, no time after that.
python -m recipes.run digits_speech install "$@"

# Stage 1. Join recordings to utterances: DIR/raw-recognition, of few digits, and DIR/raw. Half a minute.
python -m recipes.run digits_speech generate "$@"

# Stage 2. Compute their features: DIR/data-recognition, with English words, and DIR/data, with German ones. A minute.
python -m recipes.run digits_speech prepare "$@"

# Stage 3. Train every encoder with every seed to recognise digits: DIR/recognition-ENCODER-seedN. 2 to 7 minutes each.
python -m recipes.run digits_speech pretrain "$@"

# Stage 4. Train it to translate, with k drawn per batch, from where recognition has ended: DIR/ENCODER-seedN. 5 to 20
# minutes each.
python -m recipes.run digits_speech train "$@"

# Stage 5. Translate streams while they would be heard, by several k: SPLIT-kK-STREAM.json in the folder of each run. Half
# a minute each; encoders of whole utterances take minutes for long streams.
python -m recipes.run digits_speech score "$@"

# Stage 6. Measure how long each encoder works on a segment, by how long it has heard. A minute each.
python -m recipes.run digits_speech measure "$@"

# Stage 7. Print quality, latency and time, and draw the plots.
python -m recipes.run digits_speech summarize "$@"
