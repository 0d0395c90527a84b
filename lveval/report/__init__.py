"""A run for people: the data of a report and its forms: HTML, SVG, Markdown, LaTeX, plots.

    page = build_report(evaluation, analyze_run(evaluation))
    html.render(page)

The HTML page's style and script are the plain files beside this one.
"""
