"""An evaluation as a page for people: one HTML file that needs nothing else, and its images beside it."""

from gan_plugin.report.page import write_report

__all__ = ["write_report"]
