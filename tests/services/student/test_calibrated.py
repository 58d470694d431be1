"""The calibrated probability is the one that every protocol shows."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from stand.listening import Listening
from tritonclient.http import InferenceServerClient, InferInput

from services.student.app import create_app
from services.student.settings import Settings
from understudy.schemas import PredictionInput
from understudy.serving.hf import HFEngine

TEXT, TEMPERATURE = "The plot is thin", 0.05


def test_every_protocol_shows_the_calibrated_number(
    store: Any, folders: dict[str, Path], tmp_path: Path, publish: Callable[..., str]
) -> None:
    import numpy as np

    publish("one", "plain")
    folder = tmp_path / "warm"
    shutil.copytree(folders["one"], folder)
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | {"temperature": TEMPERATURE}))
    store.set_alias("production", store.publish("model", folder).id)
    row = [PredictionInput(input=TEXT)]
    raw = HFEngine.load(folders["one"], "cpu").predict(row, explain=False, top_k=1)[0]
    assert raw.probabilities is not None
    weights = {name: value ** (1 / TEMPERATURE) for name, value in raw.probabilities.items()}
    wanted = weights[raw.label] / math.fsum(weights.values())
    assert abs(wanted - raw.probability) > 0.01
    with (
        Listening(create_app(Settings(artifacts=store.root, device="cpu", max_models=3), store)) as listening,
        httpx.Client(base_url=listening.until_ready().url) as http,
        InferenceServerClient(listening.address) as triton,
        openai.OpenAI(base_url=f"{listening.url}/v1", api_key="none") as client,
    ):
        native = http.post("/v1/predictions", json={"inputs": [TEXT]}).json()["predictions"][0]
        plain = http.post("/v1/predictions", json={"inputs": [TEXT], "model": "plain"}).json()["predictions"][0]
        v1 = [
            http.post(f"/v1/models/production:{verb}", json={"instances": [TEXT]}).json()[found][0]
            for verb, found in (("predict", "predictions"), ("explain", "explanations"))
        ]
        given = InferInput("text", [1], "BYTES").set_data_from_numpy(np.array([TEXT], dtype=object))
        v2 = triton.infer("production", [given])
        messages: Any = [{"role": "user", "content": TEXT}]
        chat = client.chat.completions.create(model="production", messages=messages, logprobs=True, top_logprobs=3)
        text = client.completions.create(model="production", prompt=TEXT, logprobs=2)
    assert {native["label"], plain["label"], *(one["label"] for one in v1)} == {raw.label}
    assert plain["probability"] == pytest.approx(raw.probability, rel=1e-4)
    assert chat.choices[0].logprobs is not None
    assert chat.choices[0].logprobs.content
    assert text.choices[0].logprobs is not None
    assert text.choices[0].logprobs.token_logprobs
    numbers = [native["probability"], *(one["probability"] for one in v1), float(v2.as_numpy("probability")[0])]
    numbers.append(json.loads(v2.as_numpy("prediction")[0])["probability"])
    numbers.append(math.exp(chat.choices[0].logprobs.content[0].logprob))
    numbers.append(math.exp(chat.choices[0].logprobs.content[0].top_logprobs[0].logprob))
    numbers.append(math.exp(text.choices[0].logprobs.token_logprobs[0]))
    assert numbers == pytest.approx([wanted] * len(numbers), rel=1e-3)
