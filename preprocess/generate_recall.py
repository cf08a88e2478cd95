"""A needle test: facts told at the start of a document and asked for again after thousands of words of real text.

A document tells ``--facts`` pairs, "<fact> key value" each, and then is a stretch of the text under ``--text``. Now and
then it asks "<ask> key <answer> value </answer>" for one of them. Keys and values are words of their own, drawn anew for
each document, so that nothing but memory tells which value goes with which key. In training, questions come at
distances spread evenly on a logarithmic scale; validation and test ask at fixed distances, 1,000, 2,000, 4,000, … words,
``--questions`` times each. The result is text for prepare.sh, one document a paragraph.
"""

import argparse
from pathlib import Path
from typing import Iterator

import numpy as np
