"""What the tasks of ``recipes.lm_eval.tasks`` divide likelihoods by; it is copied beside them."""


def process_results(doc: dict, results: list) -> dict:
    """Of a document and its log-likelihood: words and bytes as prepare.sh counts them."""
    (likelihood,) = results
    figures = {"word_perplexity": "words", "byte_perplexity": "bytes", "bits_per_byte": "bytes"}
    return {metric: (likelihood, doc[count]) for metric, count in figures.items()}
