"""How does a log of a run as a table survive a kill?"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter

from cxr.files import write_atomically


class DurableCSVLogger(CSVLogger):
    """Lightning's logger to ``metrics.csv``, of whose rows none is ever missing again.

    Every new column makes the table be written anew. Lightning empties the file first, so that a kill or a full disk in
    that moment, after the first validation for example, costs all that was logged before.
    """

    _experiment: _DurableWriter | None

    @property
    def experiment(self) -> ExperimentWriter:
        """What writes the rows."""
        if self._experiment is None:
            self._experiment = _DurableWriter(self.log_dir)
        return self._experiment


class _DurableWriter(ExperimentWriter):
    def save(self) -> None:
        """Append the rows recorded since the last time; with a new column among them, exchange the file at once."""
        path, rows = Path(self.metrics_file_path), self.metrics
        if not rows:
            return
        columns = sorted({*self.metrics_keys, *(key for row in rows for key in row)})
        widened = columns != self.metrics_keys
        text = io.StringIO()
        writer = csv.DictWriter(text, columns)
        if widened:
            writer.writeheader()
            if path.is_file():
                with path.open(encoding="utf-8", newline="") as stream:
                    writer.writerows(csv.DictReader(stream))
        writer.writerows(rows)
        if widened:
            write_atomically(path, text.getvalue())
        else:
            with path.open("a", encoding="utf-8", newline="") as stream:
                stream.write(text.getvalue())
        self.metrics_keys, self.metrics = columns, []
