"""The ∞-former's memory (Martins et al. 2022): the past as a continuous signal on [0, 1].

``README.md`` has the reading order and the derivations, ``naive.py`` the paper's equations.
"""

from .basis import GaussianBasis
from .contraction import CONTRACTIONS
from .density import DENSITIES, register_density
from .gibbs import GibbsAttention, GibbsDensity
from .memory import ContinuousLongTermMemory, ContinuousMemory, ContinuousReport, ContinuousState
from .read import ContinuousAttention
from .sampling import SAMPLINGS
from .settings import ADDRESSINGS, ContinuousSettings

__all__ = [
    "ADDRESSINGS",
    "CONTRACTIONS",
    "DENSITIES",
    "SAMPLINGS",
    "ContinuousAttention",
    "ContinuousLongTermMemory",
    "ContinuousMemory",
    "ContinuousReport",
    "ContinuousSettings",
    "ContinuousState",
    "GaussianBasis",
    "GibbsAttention",
    "GibbsDensity",
    "register_density",
]
