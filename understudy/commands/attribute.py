"""`understudy attribute`: its options; what they do is in `maps` and `understudy.explain`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import typer

from understudy.commands import complete
from understudy.commands.fields import as_options, listed
from understudy.commands.output import console
from understudy.commands.service import DEFAULT_HOME

__all__ = ["OPTIONS_OF_FIELDS", "attribute"]

Target = Literal["predicted", "gold", "label"]
Select = Literal["top_k", "top_share", "threshold", "span"]
Aggregation = Literal["sum", "mean", "max", "l1", "l2"]
Precision = Literal["float32", "bfloat16", "float16", "float64"]

COMPARED_ROWS = 200
"""Rows that methods are compared on where nobody says how many: enough for intervals, soon done."""

OPTIONS_OF_FIELDS: Mapping[str, str] = MappingProxyType({"input": "TEXT", "settings": "--method"})
"""The fields of an attribution's request that have other names as options."""

ASKED, ANSWER, SHOWN, RUN = "Who explains, and how", "Which answer is explained", "What is shown", "How it runs"
"""The panels of `understudy attribute --help`."""


def _option(panel: str, text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, metavar="" if names else None, **more)


def attribute(
    text: Annotated[str, typer.Argument(metavar="TEXT|FILE", help="A text, or a JSONL, CSV or Parquet file of rows.")],
    model: Annotated[
        str | None,
        _option(ASKED, "A folder, an artifact id, an alias or a hub name.", autocompletion=complete.versions),
    ] = None,
    url: Annotated[str | None, _option(ASKED, "Let the teacher service at this address explain.")] = None,
    api_key: Annotated[
        str | None, _option(ASKED, "Where the service wants a key.", envvar="UNDERSTUDY_API_KEY")
    ] = None,
    method: Annotated[
        list[str] | None,
        _option(ASKED, "As integrated_gradients:n_steps=50; repeatable.", autocompletion=complete.methods),
    ] = None,
    compare: Annotated[bool, _option(ASKED, "The table of methods, beside random words.", "--compare")] = False,
    target: Annotated[Target | None, _option(ANSWER, "predicted, unless named.")] = None,
    label: Annotated[str | None, _option(ANSWER, "Explain this answer.")] = None,
    against: Annotated[str | None, _option(ANSWER, "Explain why it is not this answer instead.")] = None,
    labels: Annotated[str | None, _option(ANSWER, "The answers that there are, as in good,bad.")] = None,
    template: Annotated[str | None, _option(ANSWER, "What the model reads; holds {input} once.")] = None,
    select: Annotated[Select | None, _option(SHOWN, "How its words are chosen: top_k, unless named.")] = None,
    top_k: Annotated[int | None, _option(SHOWN, "Words of a rationale: 5, unless named.", min=1, max=100)] = None,
    top_share: Annotated[float | None, _option(SHOWN, "For top_share: 0.2 of all words, unless named.")] = None,
    threshold: Annotated[float | None, _option(SHOWN, "For threshold: 0.5 of the best score, unless named.")] = None,
    ignore: Annotated[str | None, _option(SHOWN, "punctuation, unless named: also stop_words, both, or ''.")] = None,
    aggregation: Annotated[Aggregation | None, _option(SHOWN, "A word's score of its tokens': their sum.")] = None,
    rows: Annotated[bool, _option(SHOWN, "Scores for each token of the answer too.", "--rows")] = False,
    faithfulness: Annotated[bool, _option(SHOWN, "Ask again without the words.", "--faithfulness")] = False,
    html: Annotated[Path | None, _option(SHOWN, "Write the maps as a page.")] = None,
    out: Annotated[Path | None, _option(SHOWN, "Write one attribution a line.")] = None,
    as_json: Annotated[bool, _option(SHOWN, "Print JSON alone.", "--json")] = False,
    limit: Annotated[int | None, _option(RUN, "That many rows of FILE, evenly spread over it.", min=1)] = None,
    batch: Annotated[int, _option(RUN, "Tokens of one pass, padding counted.", min=1)] = 2048,
    device: Annotated[str, _option(RUN, "cpu, cuda or cuda:1; auto takes cuda where there is one.")] = "auto",
    dtype: Annotated[Precision, _option(RUN, "The precision of the model.")] = "float32",
    home: Annotated[Path, _option(RUN, "The folder of the stack whose artifacts can be named.")] = DEFAULT_HOME,
) -> None:
    """Which words decide a model's answer: of TEXT, or of each row of FILE."""
    from understudy import explain
    from understudy.commands import maps

    asked: dict[str, Any] = {"target": target or ("label" if label else None), "label": label, "against": against}
    asked |= {
        "labels": listed(labels),
        "template": template,
        "select": select,
        "top_k": top_k,
        "top_share": top_share,
        "threshold": threshold,
        "ignore": listed(ignore),
        "aggregation": aggregation,
    }
    with as_options(OPTIONS_OF_FIELDS):
        options = explain.options({**asked, "rows": rows, "faithfulness": faithfulness})
        source = explain.read(text, limit or (COMPARED_ROWS if compare else None))
        methods = [explain.parse_method(one) for one in method or ()]
        to = maps.Outputs(html, out, as_json)
        place: dict[str, Any] = {"store": home / "artifacts", "device": device, "dtype": dtype, "batch": batch}
        with maps.answering(model, url, api_key=api_key, **place) as explainer:
            if compare:
                maps.show_comparison(console, explainer, source, methods or explain.default_methods(), options, to)
            else:
                maps.show_maps(console, explainer, source, methods or [("saliency", {})], options, to)
