"""DARTSformer (Zhao et al. 2021): a Transformer for translation whose layers are searched for by gradient.

``dartsformer_search`` has all operations in every node, with weights that are trained; ``dartsformer`` has one each.
"""

from .architecture import Architecture, read_architecture
from .model import Dartsformer, DartsformerSearch

__all__ = ["Architecture", "Dartsformer", "DartsformerSearch", "read_architecture"]
