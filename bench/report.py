"""The file of a run: everything that was measured, each repeat by itself, with what it was measured on."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from bench.machine import description
from bench.run import Report


def write_json(report: Report, path: Path) -> None:
    """Write the run as JSON."""
    results = report.results
    document = {
        "machine": {**description(), "calibration_ms": report.calibration_ms},
        "versions": report.versions,
        "settings": report.settings,
        "sizes": asdict(report.plan.sizes),
        "repeats": report.plan.repeats,
        "seconds_spent": {name: round(seconds, 1) for name, seconds in report.spent_s.items()},
        "notes": results.notes,
        "values": [
            {
                "figure": figure,
                "subject": subject,
                "values": values,
                "median": summary.median if (summary := results.summary(figure, subject)) else None,
            }
            for (figure, subject), values in results.values.items()
        ],
        "growth": asdict(report.growth) if report.growth is not None else None,
    }
    path.write_text(json.dumps(document, indent=1) + "\n")
