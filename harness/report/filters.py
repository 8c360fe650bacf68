"""What a reader may leave out of the page: methods, tasks, scales. Without JavaScript everything is shown.

What is switched off stands in the page's address: it outlasts a reload, can be bookmarked, and a method that
appears later is shown. Rows and tiles are found by the name of their variant, curves by `mark` of it.
"""

import json
import zlib
from collections.abc import Mapping
from html import escape
from typing import Any, Final

import pandas as pd

KINDS: Final = ("method", "task", "scale")
NO_SCALE: Final = "no scale"
"""Of a run that no sweep tagged."""

CSS: Final = """
.filters { display: flex; flex-wrap: wrap; gap: 0.4rem 1.6rem; margin: 1.4rem 0 0; padding: 0.7rem 0; }
.filters { border-top: 1px solid var(--line); border-bottom: 1px solid var(--line); }
[hidden] { display: none !important; }
.filters fieldset { border: 0; margin: 0; padding: 0; display: flex; flex-wrap: wrap; gap: 0.1rem 0.9rem; }
.filters legend { float: left; padding: 0.2rem 0.5rem 0 0; color: var(--soft); font-size: 0.9rem; }
.filters label { padding: 0.2rem 0; font-size: 0.95rem; overflow-wrap: anywhere; }
.filters input { accent-color: var(--accent); margin: 0 0.35rem 0 0; }
@media print { .filters { display: none; } }
"""

SCRIPT: Final = """
(() => {
  const known = JSON.parse(document.getElementById("variants").textContent);
  const boxes = [...document.querySelectorAll(".filters input")];
  const name = (box) => box.dataset.kind + "=" + box.value;
  const off = () => new Set(location.hash.slice(1).split("&").map(decodeURIComponent));
  const show = () => {
    const out = off();
    for (const box of boxes) box.checked = !out.has(name(box));
    for (const [task, variants] of Object.entries(known)) {
      const parts = [...document.querySelectorAll("[data-task]")].filter((e) => e.dataset.task === task);
      const named = parts.flatMap((e) => [...e.querySelectorAll("tbody th, .tiles li span:last-child")]);
      for (const part of parts) if (!part.dataset.variant) part.hidden = out.has("task=" + task);
      for (const [variant, its] of Object.entries(variants)) {
        const gone = out.has("method=" + its.method) || its.scales.every((s) => out.has("scale=" + s));
        for (const e of named) if (e.textContent === variant) e.closest("tr, li").hidden = gone;
        for (const e of parts) {
          if (e.dataset.variant === variant) e.hidden = gone || out.has("task=" + task);
          for (const g of e.querySelectorAll(`[id*="-${its.mark}-"]`)) g.style.display = gone ? "none" : "";
        }
      }
    }
  };
  for (const box of boxes) box.addEventListener("change", () => {
    const out = boxes.filter((b) => !b.checked).map((b) => encodeURIComponent(name(b)));
    history.replaceState(null, "", "#" + out.join("&"));
    show();
  });
  addEventListener("hashchange", show);
  document.querySelector(".filters").hidden = boxes.length === 0;
  show();
  const every = Number(document.documentElement.dataset.reload);
  if (!every) return;
  const details = [...document.querySelectorAll("details")];
  const title = (e) => e.querySelector("summary").textContent;
  const open = JSON.parse(sessionStorage.getItem("open") || "[]");
  for (const e of details) e.open = e.open || open.includes(title(e));
  setTimeout(() => {
    sessionStorage.setItem("open", JSON.stringify(details.filter((e) => e.open).map(title)));
    location.reload();
  }, 1000 * every);
})();
"""


def mark(variant: str) -> str:
    """What stands in the ids of a variant's curves, whatever letters its name has."""
    return f"v{zlib.crc32(variant.encode()):08x}"


def scale_of(run: Mapping[Any, Any]) -> str:
    """The scale a sweep ran it at, from its tags."""
    try:
        tags = json.loads(str(run.get("config.log.tags", "[]")))
    except ValueError:
        tags = []
    found = [str(tag).removeprefix("scale:") for tag in tags if str(tag).startswith("scale:")]
    return found[0] if found else NO_SCALE


def controls(runs: pd.DataFrame) -> str:
    """The bar of check boxes, for what has more than one value, and what the script has to know.

    `runs` has a row per run with its `variant`.
    """
    rows = runs.to_dict("records")
    values = {
        "method": sorted({str(run["method"]) for run in rows}),
        "task": sorted({str(run["task"]) for run in rows}),
        "scale": sorted({scale_of(run) for run in rows}),
    }
    known: dict[str, dict[str, dict[str, Any]]] = {}
    for run in rows:
        variant = str(run["variant"])
        entry = {"method": str(run["method"]), "scales": [], "mark": mark(variant)}
        its = known.setdefault(str(run["task"]), {}).setdefault(variant, entry)
        its["scales"] = sorted({*its["scales"], scale_of(run)})
    # No `<` inside a script: a name may hold what would end it.
    told = json.dumps(known, sort_keys=True).replace("<", "\\u003c")
    groups = "".join(_group(kind, values[kind]) for kind in KINDS if len(values[kind]) > 1)
    return (
        f'<form class="filters" aria-label="Filters" hidden>{groups}</form>\n'
        f'<script type="application/json" id="variants">{told}</script>'
    )


def _group(kind: str, values: list[str]) -> str:
    boxes = "".join(
        f'<label><input type="checkbox" checked data-kind="{kind}" value="{escape(value)}">'
        f"{escape(value.rsplit(':', 1)[-1])}</label>"
        for value in values
    )
    return f"<fieldset><legend>{kind.capitalize()}</legend>{boxes}</fieldset>"
