"""Named values of `univg segment fit`.

`paper`: Sec. 3.4.2 and 4, where it says; `laptop`: twenty minutes on two cores; `strong`: for five
shots on a GPU, or with patience. What stands in `paper` is also what the others leave open.
"""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "network": "unet",
        "loss": "bce",
        "optimizer": "adam",
        "learning_rate": 3e-4,
        "schedule": "constant",
        "weight_decay": 0.0,
        "ema": 0.0,
        "epochs": 300,
        "batch": 4,
        "size_px": 512,
        "patch_px": 0,
        "vessel_share": 0.0,
        "augment": "none",
        "synthetic_share": 0.5,
        "synthetic_until": 1.0,
    },
    "laptop": {
        "network": "unet-small",
        "start_from": "vessels",
        "loss": "bce+dice",
        "optimizer": "adamw",
        "learning_rate": 3e-3,
        "schedule": "cosine",
        "warmup_steps": 50,
        "weight_decay": 0.01,
        "ema": 0.99,
        "epochs": None,
        "max_steps": 1000,
        "batch": 8,
        "size_px": "auto",
        "patch_px": 192,
        "vessel_share": 0.3,
        "augment": "strong",
    },
    "strong": {
        "network": "unet",
        "network_options": ("channels=32", "norm=instance"),
        "loss": "bce+dice",
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "schedule": "cosine",
        "warmup_steps": 200,
        "weight_decay": 0.01,
        "ema": 0.999,
        "epochs": None,
        "max_steps": 6000,
        "batch": 8,
        "size_px": "auto",
        "patch_px": 256,
        "vessel_share": 0.3,
        "augment": "strong",
    },
}
