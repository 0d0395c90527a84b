"""The parts of report.py: what a page says (page.py), and its forms: HTML, SVG, Markdown, LaTeX, plots.

    page = page_of(evaluation, findings.of(evaluation.rows, evaluation.causes), published=read_published())
    html.render(page)

Each form reads a `Page` and nothing else. The HTML page's style and script are the plain files beside this one.
"""
