"""PatchedPart: what became of the parts of a model, for the run's events and the screens. Light: no torch."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PatchedPart:
    """What became of all modules of one class and width."""

    name: str
    """Class and width, "LlamaRMSNorm 4096"; the class alone where nothing was compared."""
    kind: str
    """`rms_norm`, `rms_norm (1 + w)`, `swiglu`, `decoder layer`, `packed attention`, ..."""
    count: int
    """Modules of this kind in the model."""
    fast: bool
    """Whether they run on our kernels now."""
    reason: str = ""
    """Why, in words for the screen."""
    error: float | None = None
    """Relative RMS error of the fast part against the truth, of the tensor that fared worst of output and
    gradients; None where nothing was compared or a value was not finite."""
    eager_error: float | None = None
    """The stock part's, likewise."""
