"""What attention over the segment and the short-term memory shares, whatever its position encoding."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


def check_heads(embed_dim: int, num_heads: int) -> None:
    """ValueError if a width of C = ``embed_dim`` cannot be cut into H = ``num_heads`` heads."""
    if num_heads <= 0 or embed_dim % num_heads:
        raise ValueError(f"embed_dim must be a multiple of num_heads, got {embed_dim} and {num_heads}")


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(..., L, H · d) as (..., H, L, d)."""
    return x.unflatten(-1, (num_heads, -1)).transpose(-3, -2)


class Attention(nn.Module, ABC):
    """Multi-head attention of a segment to itself and to the short-term memory before it.

    Args:
        embed_dim: C. num_heads: H, a divisor of C. dropout: on the attention weights.
        bias: add learned biases to keys, values and the output.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = False) -> None:
        super().__init__()
        check_heads(embed_dim, num_heads)
        if not 0 <= dropout < 1:
            raise ValueError(f"attention dropout must lie in [0, 1), got {dropout}")
        self.embed_dim, self.num_heads, self.dropout = embed_dim, num_heads, dropout
        self.kv_proj = nn.Linear(embed_dim, 2 * embed_dim, bias=bias)
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        nn.init.xavier_uniform_(self.kv_proj.weight, gain=2**-0.5)
        nn.init.xavier_uniform_(self.out_proj.weight)
        if bias:
            nn.init.zeros_(self.kv_proj.bias)
            nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, hidden: Tensor, mask: Tensor) -> Tensor:
        """Attend.

        Args:
            query: projected queries (B, T, C).
            hidden: (B, K, C), the short-term memory followed by the segment: the last T are the queries' own.
            mask: bool, True where attention is forbidden: (T, K), the future alone, or (B, 1, T, K), the future and
                the first positions of some rows.

        Returns:
            (B, T, C), after the output projection.
        """
        keys, values = (self.split_heads(x) for x in self.kv_proj(hidden).chunk(2, dim=-1))
        context = self.attend(self.split_heads(query), keys, values, mask)
        return self.out_proj(context.transpose(1, 2).flatten(2))

    @abstractmethod
    def attend(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Context (B, H, T, d) of ``query`` (B, H, T, d) among ``keys`` and ``values`` (B, H, K, d)."""

    def split_heads(self, x: Tensor) -> Tensor:
        """(..., L, C) as (..., H, L, d)."""
        return split_heads(x, self.num_heads)

    @property
    def kv_weight(self) -> Tensor:
        """(2C, C): the weights of keys and values, one above the other."""
        return self.kv_proj.weight

    @property
    def dropout_now(self) -> float:
        return self.dropout if self.training else 0.0
