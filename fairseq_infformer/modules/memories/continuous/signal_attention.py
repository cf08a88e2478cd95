"""What attention over a continuous memory shares, whatever its density."""

from typing import Optional

from torch import Tensor, nn

from fairseq_infformer.modules.attention import check_heads

from .basis import GaussianBasis


class SignalAttention(nn.Module):
    """Multi-head attention whose keys and values are projections of the signal ``x̄(t) = Θᵀ ψ(t)``.

    Args:
        embed_dim: C. num_heads: H, a divisor of C unless there is a head_dim.
        basis: the basis of the memory that is read.
        flat_start: start the output projection at random; otherwise it starts at zero.
        head_dim: d, the width of a head; absent: C / H.
    """

    def __init__(
        self, embed_dim: int, num_heads: int, basis: GaussianBasis, flat_start: bool, head_dim: Optional[int] = None
    ) -> None:
        super().__init__()
        if head_dim is None:
            check_heads(embed_dim, num_heads)
            head_dim = embed_dim // num_heads
        self.embed_dim, self.num_heads, self.head_dim, self.basis = embed_dim, num_heads, head_dim, basis
        self.k_proj = nn.Linear(embed_dim, num_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(embed_dim, num_heads * head_dim, bias=False)
        self.out_proj = nn.Linear(num_heads * head_dim, embed_dim, bias=False)
        for projection in (self.k_proj, self.v_proj, self.out_proj):
            nn.init.xavier_uniform_(projection.weight)
        if not flat_start:
            # A read that starts as noise costs more than it gives, until the layers have learned to ignore it.
            nn.init.zeros_(self.out_proj.weight)

    def start_alike(self, query: Tensor) -> None:
        """Let each query find what is like it, if it is compared with the signal's keys one by one.

        Args:
            query: the weight of queries, like that of keys.
        """

    def split_heads(self, x: Tensor) -> Tensor:
        """(B, L, H · d) as (B, H, L, d)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
