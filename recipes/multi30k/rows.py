"""The models that the recipe of translation compares, and the search that two of them come of."""

TRANSFORMER, FOUND, RANDOM, SEARCH = "transformer", "found", "random", "search"
ROWS = {
    TRANSFORMER: "fairseq's Transformer",
    FOUND: "the net that the search with the same seed has found",
    RANDOM: "a random one of as many parameters as the found one",
}
