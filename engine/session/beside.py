"""Whether another run trains already on the device that a run would take.

Two runs on one GPU are both slower than one after the other, and the second may cost the first its memory. Light.
"""

from ..machine.which_gpu import device_name
from ..run.registry import LiveRun, live_runs


def runs_beside(device: str, but: str = "") -> list[LiveRun]:
    """Live runs on this machine that compute where a run with this `train.device` would. Asks the driver.

    Args:
        but: folder of a run that does not count: itself.
    """
    others = [run for run in live_runs() if run.owner and run.owner.is_on_this_machine and str(run.path) != but]
    if not others:
        return []
    own = device_name(device)
    return [run for run in others if run.owner and _same(own, run.owner.device)]


def _same(one: str, other: str) -> bool:
    """Whether two names of devices may mean the same one."""
    if "cpu" in (one, other):
        return one == other
    # Not told yet, or an index beside a UUID: it may be the same.
    unlike = one != other and other and one.startswith("GPU ") == other.startswith("GPU ")
    return not unlike
