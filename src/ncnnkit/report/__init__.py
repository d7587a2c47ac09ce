"""What a person reads of a run: report.html, the table on the terminal, and the recommendation in a sentence."""

from .console import (
    LAYER_ORDERS,
    bisection_table,
    comparison_table,
    console_table,
    converted,
    headline,
    layer_table,
    plan_table,
    profile_table,
    trials_table,
    tuning_table,
)
from .html import write_report
from .ship import shipping

__all__ = [
    "LAYER_ORDERS",
    "bisection_table",
    "comparison_table",
    "console_table",
    "converted",
    "headline",
    "layer_table",
    "plan_table",
    "profile_table",
    "shipping",
    "trials_table",
    "tuning_table",
    "write_report",
]
