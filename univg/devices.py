"""The device that networks are computed on, by the name that a user gives.

In: a name, or `auto`. Out: nothing where it is there; else one line that says why it is not.
"""

from __future__ import annotations

from univg.errors import ConfigError

DEVICES = {"cpu", "cuda", "mps", "xpu"}


def require_device(name: str) -> None:
    """Refuse a device that this machine, or this build of torch, has not."""
    if name == "auto":
        return
    import torch

    try:
        if torch.device(name).type not in DEVICES:
            raise RuntimeError("univg does not compute there")
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"device is {name!r}: {reason}; take auto, cpu, or the name of a GPU that is here"
        ) from error
