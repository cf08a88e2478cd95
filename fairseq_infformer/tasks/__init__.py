import fairseq_infformer.plugin  # noqa: F401  (fairseq imports this package, and with it the plugin)
