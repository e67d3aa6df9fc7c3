"""Pages for the browser: a run beside the paper, and all of the paper beside what was made here."""

from pruning_lab.reports.paper import Section, paper_html, paper_sections, paper_text
from pruning_lab.reports.run import (
    beside,
    html,
    layer_table,
    layers_beside,
    sentence,
    table_1,
    text,
)

__all__ = ["Section", "beside", "html", "layer_table", "layers_beside", "paper_html"]
__all__ += ["paper_sections", "paper_text", "sentence", "table_1", "text"]
