"""Print two or more runs side by side: scripts/quickstart_table.py RUN..."""

import json
import sys
from pathlib import Path

STAGES = ("plan", "train", "refresh", "evaluate", "checkpoint", "total")


def column(run: Path) -> list[str]:
    lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    accuracy = [line["val_accuracy"] for line in lines]

    def total(key: str) -> int:
        return sum(line[key] for line in lines)

    return [
        run.name,
        f"{accuracy[-1]:.4f}",
        f"{max(accuracy):.4f}",
        f"{total('n_forward')}",
        f"{total('n_backward')}",
        f"{total('n_hidden') / total('n_samples'):.1%}",
        f"{max(line['hidden_fraction'] for line in lines):.1%}",
        *(f"{sum(line['seconds'][stage] for line in lines):.2f}" for stage in STAGES),
    ]


names = ["", "accuracy, last epoch", "accuracy, best epoch", "samples forward", "samples backward"]
names += ["hidden, mean of epochs", "hidden, most in an epoch", *(f"seconds, {stage}" for stage in STAGES)]
columns = [names, *(column(Path(run)) for run in sys.argv[1:])]
widths = [max(map(len, cells)) for cells in columns]
for row in zip(*columns, strict=True):
    print(
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
        )
    )
