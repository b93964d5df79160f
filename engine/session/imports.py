"""The engine imported, the heavy libraries first: what stands between a key press and the first step. Light itself.

transformers imports scikit-learn where it is installed, and with it scipy and pandas, for one kind of assisted
generation; so scikit-learn is hidden meanwhile. The rest of what is saved is in `machine/libraries.py`.
"""

from ..machine.libraries import import_light, import_torch, import_without
from ..machine.wake import wake_gpu, wake_kernels


def import_engine() -> None:
    """Import the engine and all that it stands on. Later calls return at once."""
    import_torch()
    engine = __name__.rpartition(".session")[0]
    import_without("sklearn", f"{engine}.training.worker")


def import_for_data() -> None:
    """Import what data are prepared and checked with, in a process that does nothing else: no torch."""
    engine = __name__.rpartition(".session")[0]
    for name in ("model.tokenizer", "data.check", "data.inspector.inspect"):
        import_light(f"{engine}.{name}")


def import_for_run(device: str) -> None:
    """`import_engine`, and wake the device of a `train.device` meanwhile."""
    import_torch()
    wake_gpu(device)
    import_engine()
    wake_kernels(device)
