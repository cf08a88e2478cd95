from . import ltm_cross_entropy, translation_cross_entropy  # noqa: F401
