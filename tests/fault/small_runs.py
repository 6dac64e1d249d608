"""Which run do the tests disturb, and where does it lie?"""

from __future__ import annotations

from pathlib import Path

PLAIN = [
    "experiment=demo",
    "data.sources.phantom.num_patients=40",
    "data.sources.phantom.size=64",
    "data.look_for_copies=false",
    "audit.shortcuts=false",
    "data.image_size=32",
    "model.name=test_resnet",
    "trainer.gpus=0",
]
# As random as a training can be: order, augmentation and dropout; and each step of it is logged.
TINY = [
    *PLAIN,
    "data.batch_size=8",
    "model.drop_rate=0.3",
    "augment=light",
    "trainer.max_epochs=4",
    "trainer.log_every_n_steps=1",
    "logger=csv",
]


def the_run(folder: Path) -> Path:
    """The one run below a folder."""
    (found,) = (folder / "outputs" / "demo").glob("[0-9]*")
    return found


def num_checkpoints(folder: Path) -> int:
    """How many epochs of the run below a folder have left their ``last.ckpt``: the history comes before it."""
    for path in folder.glob("outputs/demo/*/checkpoints/last.ckpt"):
        try:
            written, history = path.stat().st_mtime_ns, path.parents[1] / "history.csv"
            epochs = len(history.read_text().splitlines()) - 1
            return epochs if history.stat().st_mtime_ns <= written else epochs - 1
        except FileNotFoundError:  # between two renamings
            return 0
    return 0
