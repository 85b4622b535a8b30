"""Figures, pages and dashboards."""
