"""The shapes that can be benchmarked, and the arithmetic that a training step of them cannot do without."""

from collections.abc import Iterable
from dataclasses import dataclass

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

WEIGHT_STD = 0.02
"""Of every random weight, as transformers initialises a Llama."""


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """A Llama's sizes, in values; `rope_factor` is that of llama3 scaling (0: none)."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    rope_factor: float
    positions: int

    def projections(self) -> dict[str, tuple[int, int]]:
        """Path within a layer -> (out, in) of each weight that is quantised and gets an adapter."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "self_attn.q_proj": (query, self.hidden),
            "self_attn.k_proj": (key, self.hidden),
            "self_attn.v_proj": (key, self.hidden),
            "self_attn.o_proj": (self.hidden, query),
            "mlp.gate_proj": (self.intermediate, self.hidden),
            "mlp.up_proj": (self.intermediate, self.hidden),
            "mlp.down_proj": (self.hidden, self.intermediate),
        }

    @property
    def linear_parameters(self) -> int:
        """Weights in the layers' projections; embeddings, norms and head are not among them."""
        return self.layers * sum(rows * columns for rows, columns in self.projections().values())

    @property
    def weights_gb(self) -> float:
        """GB (1e9 bytes) of the model: half a byte and its scales a projection weight, else 16 bits."""
        tables = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return (self.linear_parameters * 0.516 + tables * 2) / 1e9

    def memory_gb(self, tokens: int, recompute: bool) -> float:
        """Roughly what a step of `tokens` takes: weights and what each layer saves, in 16 bits."""
        saved = 6 * self.hidden + 2 * self.kv_heads * self.head_dim + 3 * self.intermediate
        layers = self.layers * (self.hidden if recompute else saved) + saved * recompute
        return self.weights_gb + 2 * tokens * layers / 1e9 + 2.0


SHAPES = {
    shape.name: shape
    for shape in (
        ModelShape(
            name="8b",
            hidden=4096,
            intermediate=14336,
            layers=32,
            heads=32,
            kv_heads=8,
            head_dim=128,
            vocabulary=128_256,
            tied=False,
            rope_factor=8.0,
            positions=131_072,
        ),  # Llama 3.1 8B
        ModelShape(
            name="1b",
            hidden=2048,
            intermediate=8192,
            layers=16,
            heads=32,
            kv_heads=8,
            head_dim=64,
            vocabulary=128_256,
            tied=True,
            rope_factor=32.0,
            positions=131_072,
        ),  # Llama 3.2 1B
        ModelShape(
            name="tiny",
            hidden=64,
            intermediate=128,
            layers=2,
            heads=4,
            kv_heads=2,
            head_dim=16,
            vocabulary=1024,
            tied=False,
            rope_factor=0.0,
            positions=4096,
        ),  # for CPUs and tests
    )
}


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one step, by what they are for."""

    layers: float
    head: float
    attention: float

    @property
    def total(self) -> float:
        return self.layers + self.head + self.attention


def needed_flops(shape: ModelShape, lengths: Iterable[int], trained: int) -> Flops:
    """What one step needs at least, whatever the stack: nothing recomputed, nothing padded.

    A frozen weight takes two operations a token forward and two backward (no gradient of its own), and so does
    the head for each trained token. Attention looks at half of each document's pairs: two matmuls of two
    operations forward, and two and a half times that backward (Dao 2023). The adapter is left out: at rank 16
    it is under one per cent.

    Args:
        lengths: tokens of each document.
        trained: tokens that are learnt.
    """
    lengths = tuple(lengths)
    pairs = sum(length * length / 2 for length in lengths)
    width = shape.heads * shape.head_dim
    return Flops(
        layers=4.0 * shape.linear_parameters * sum(lengths),
        head=4.0 * trained * shape.hidden * shape.vocabulary,
        attention=3.5 * 2 * 2 * pairs * width * shape.layers,
    )
