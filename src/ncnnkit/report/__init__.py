"""Reports on one run or several: pages, tables on the terminal, and the files to ship."""

from .changes import diff_table, junit, markdown
from .console import (
    LAYER_ORDERS,
    bisection_table,
    comparison_table,
    console_table,
    converted,
    headline,
    layer_table,
    npus,
    plan_table,
    profile_table,
    trials_table,
    tuning_table,
)
from .html import write_report
from .several import NamedRun, write_comparison
from .ship import shipping

__all__ = [
    "LAYER_ORDERS",
    "NamedRun",
    "bisection_table",
    "comparison_table",
    "console_table",
    "converted",
    "diff_table",
    "headline",
    "junit",
    "layer_table",
    "markdown",
    "npus",
    "plan_table",
    "profile_table",
    "shipping",
    "trials_table",
    "tuning_table",
    "write_comparison",
    "write_report",
]
