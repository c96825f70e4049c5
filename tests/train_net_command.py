"""Trains the task of `train_tasks` in a process of its own.

In: OUT, the sample to die at, settings as JSON; among them `seconds` to die after, `dropout`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path

from train_tasks import NetTask, settings_for, train_net


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


out, last = Path(sys.argv[1]), int(sys.argv[2])
changed = json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}
if seconds := changed.pop("seconds", 0):
    threading.Timer(seconds, die).start()
task = NetTask(at={last: die}, dropout=changed.pop("dropout", 0.2))
train_net(task, settings_for(out, **changed))
(out / f"seen-{os.environ.get('RANK', '0')}.json").write_text(json.dumps(task.seen))
