"""Raw text to binarised streams, and the synthetic corpora of the recipes."""
