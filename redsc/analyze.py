"""What a model is before anything is decided: ops, groups, costs. Writes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from redsc import cost, groups, importer, ir, passes, report


def analyze(path: Path) -> dict[str, Any]:
    """Analysis of a model file as JSON-ready data.

    Raises ModelError, listing every offending layer, when the model is not supported.
    """
    model = importer.load(path)
    graph = passes.lower(model.graph)
    grouping = groups.find_groups(graph)
    shapes, macs = ir.shapes(graph), cost.op_macs(graph)
    return {
        "model": {
            "path": str(path),
            "sha256": model.sha256,
            "format": model.format,
            "parameters": model.parameters,
            "macs": cost.macs(graph),
            "weights_bytes": cost.weights_bytes(graph),
            "peak_activation_bytes": cost.peak_activation_bytes(graph),
        },
        "supported": True,
        "ops": [
            {
                "name": op.name,
                "kind": type(op).__name__,
                "output_shape": list(shapes[op.name]),
                "macs": macs.get(op.name, 0),
                "weights": op.kernel.size if isinstance(op, ir.LinearOp) else 0,
                "groups": list(dict.fromkeys(s.group for s in grouping.axes[op.name])),
            }
            for op in graph.ops
        ],
        "groups": [
            {"name": group.name, "units": group.units, "fixed": group.fixed}
            for group in grouping.groups.values()
        ],
        "warnings": list(model.warnings),
    }


def print_tables(analysis: dict[str, Any]) -> None:
    """The analysis for a person, to stdout."""
    from rich.table import Table

    console = report.console_for(columns=5)
    model = analysis["model"]
    fixed = {group["name"] for group in analysis["groups"] if group["fixed"]}
    table = Table(title=f"{Path(model['path']).name} ({model['format']})", title_justify="left")
    for column in ("op", "kind", "output", "MACs", "weights", "group"):
        table.add_column(column, justify="right" if column in ("MACs", "weights") else "left")
    for op in analysis["ops"]:
        names = (f"{name} (fixed)" if name in fixed else name for name in op["groups"])
        table.add_row(
            op["name"],
            op["kind"],
            "×".join(str(size) for size in op["output_shape"]),
            f"{op['macs']:,}",
            f"{op['weights']:,}",
            " + ".join(names),
        )
    console.print(table)
    free = len(analysis["groups"]) - len(fixed)
    console.print(
        f"supported: all ops; {free} groups can change width, {len(fixed)} are fixed\n"
        f"{model['macs']:,} MACs, {model['parameters']:,} parameters "
        f"({model['weights_bytes']:,} B of int8 weights), "
        f"peak activation memory {model['peak_activation_bytes']:,} B"
    )
    for warning in analysis["warnings"]:
        console.print("warning", warning, style="yellow", markup=False)
