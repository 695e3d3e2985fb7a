"""Widgets of the explorer: a menu per choice. What they change are ordinary outputs, which stay without a kernel."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import fields, replace
from html import escape

import ipywidgets
from IPython.display import HTML, DisplayHandle, display

from ..errors import KvreproError, RunError
from .explorer import Choice, Explorer, comparison_html, conclusion, draw_curve

_WITHOUT_KERNEL = "The menus need a running kernel; below is what was chosen last."


class _Told:
    """Lines of text as a paragraph of a notebook."""

    def __init__(self, text: str):
        self.text = text

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return f"<p>{escape(self.text).replace(chr(10), '<br>')}</p>"


class Controls:
    """Menus for an explorer, and the places that show what is chosen.

    Args:
        choice: what is shown first.

    Raises:
        KvreproError: something is chosen that is not offered.
    """

    def __init__(self, explorer: Explorer, choice: Choice):
        explorer.check(choice)
        self.explorer, self.choice, self._first = explorer, choice, choice
        self._places: dict[str, DisplayHandle] = {}
        style, wide = {"description_width": "7em"}, ipywidgets.Layout(width="22em")
        self.menus = {
            field.name: ipywidgets.Dropdown(description=field.name, style=style, layout=wide)
            for field in fields(Choice)
        }
        self.state = ipywidgets.HTML()
        self._is_filling = False
        self._fill()
        for menu in self.menus.values():
            menu.observe(self._changed, "value")

    def _fill(self) -> None:
        """Offer what goes with the model and benchmark that are chosen; keep the rest where it is offered."""
        explorer, chosen = self.explorer, self.choice
        chosen = replace(chosen, benchmark=_kept(chosen.benchmark, explorer.benchmarks(chosen.model)))
        panel = (chosen.model, chosen.benchmark)
        methods, budgets = explorer.methods(chosen.model), explorer.budgets(*panel)
        if panel == (self._first.model, self._first.benchmark):
            # it may be none of the profile's
            budgets = sorted({*budgets, self._first.budget})
        offered = {
            "model": explorer.models,
            "benchmark": explorer.benchmarks(chosen.model),
            "left": methods,
            "right": methods,
            "budget": budgets,
            "problem": explorer.problems(*panel),
        }
        self.choice = Choice(**{name: _kept(getattr(chosen, name), known) for name, known in offered.items()})
        with self._filling():
            for name, known in offered.items():
                self.menus[name].options = known
                self.menus[name].value = getattr(self.choice, name)

    @contextmanager
    def _filling(self):
        self._is_filling = True
        try:
            yield
        finally:
            self._is_filling = False

    def _changed(self, change) -> None:
        if self._is_filling:
            return
        name = next(name for name, menu in self.menus.items() if menu is change.owner)
        self.choice = replace(self.choice, **{name: change.new})
        if name in ("model", "benchmark"):
            self._fill()
        self.update()

    def show_menus(self) -> None:
        """The menus here; where no kernel runs, a line that says so."""
        rows = [("model", "benchmark", "problem"), ("left", "right", "budget")]
        columns = [ipywidgets.VBox([self.menus[name] for name in names]) for names in rows]
        box = ipywidgets.VBox([ipywidgets.HBox(columns, layout=ipywidgets.Layout(flex_flow="row wrap")), self.state])
        bundle = box._repr_mimebundle_()
        display({**bundle, "text/html": f"<p>{_WITHOUT_KERNEL}</p>", "text/plain": _WITHOUT_KERNEL}, raw=True)

    def show(self, *names: str) -> None:
        """Places that follow the menus, here: `replies`, `curve`, `conclusion`."""
        shown = self._shown()
        for name in names:
            self._places[name] = DisplayHandle()
            self._places[name].display(shown[name])

    def update(self) -> None:
        """Show what is chosen in every place."""
        self.state.value = "generating both replies ..."
        try:
            for name, content in self._shown().items():
                if name in self._places:
                    self._places[name].update(content)
        finally:
            self.state.value = ""

    def _shown(self) -> dict[str, object]:
        try:
            left, right = self.explorer.sides(self.choice)
            curve = self.explorer.curve(self.choice)
        except (KvreproError, RunError, OSError) as error:
            return dict.fromkeys(
                ("replies", "curve", "conclusion"), _Told(f"Cannot run: {' '.join(str(error).split())}")
            )
        return {
            "replies": HTML(comparison_html(left, right)),
            "curve": draw_curve(self.choice, curve),
            "conclusion": _Told(conclusion(self.choice, left, right, curve)),
        }


def _kept(value, known):
    return value if value in known else known[0]
