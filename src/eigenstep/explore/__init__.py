"""`eigenstep explore`: a local web page on which to see a grid, drag its levels, and take it away.

Starlette and uvicorn serve one page of plain HTML, SVG and script from this folder; it loads nothing from anywhere else. Every
number on it is computed by eigenstep's public functions in `answers`; the page only draws.

A page of our own rather than one made with Gradio or Panel, because each level of a grid is a slider: Gradio has no points to
drag, and loads fonts and analytics from elsewhere unless talked out of it; Panel's (Bokeh's PointDrawTool) live on a canvas,
out of reach of the keyboard and of screen readers, know nothing of neighbours, and bring megabytes of script.
"""


from eigenstep.explore.answers import Desk
from eigenstep.explore.jobs import Job, Jobs
from eigenstep.explore.shelf import Shelf
from eigenstep.explore.state import State

__all__ = ["Desk", "Job", "Jobs", "Shelf", "State"]
