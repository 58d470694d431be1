"""What an example becomes, in each architecture: targets, gates, distributions, and the words of the control."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from understudy.data.parquet import AnnotatedExample
from understudy.errors import InvalidRequest, ModelError
from understudy.models.base import Adapter
from understudy.models.forms import compose
from understudy.models.load import load_adapter
from understudy.schemas import Attribution, Example, TaskSpec, Word
from understudy.testing import tiny_causal, tiny_classifier, tiny_seq2seq
from understudy.training.recipes import parse_recipe
from understudy.training.views import (
    Instance,
    Row,
    build_instances,
    chosen_words,
    label_template,
    select_rows,
    word_scores,
)

TASK = TaskSpec(kind="classification", labels=("bad", "good"))
MakeAdapter = Callable[..., Adapter]


@pytest.fixture(scope="module")
def adapter_for(tmp_path_factory: pytest.TempPathFactory) -> MakeAdapter:
    """`adapter_for("seq2seq", recipe="saliency")`: a tiny model that is asked as the recipe asks it."""
    folders: dict[str, Path] = {}
    makers: dict[str, Callable[[Path], Path]] = {
        "classifier": lambda folder: tiny_classifier(folder, labels=("bad", "good")),
        "seq2seq": tiny_seq2seq,
        "causal": tiny_causal,
    }

    def make(
        architecture: str, recipe: str = "finetune", task: TaskSpec = TASK, max_tokens: int | None = None
    ) -> Adapter:
        if architecture not in folders:
            folders[architecture] = makers[architecture](tmp_path_factory.mktemp(architecture))
        asked = label_template(parse_recipe(recipe), task, architecture)
        return load_adapter(str(folders[architecture]), task=asked, device="cpu", max_tokens=max_tokens)

    return make


def build(adapter: Adapter, rows: Sequence[AnnotatedExample], recipe: str, top_k: int = 5) -> list[Instance]:
    return build_instances(
        adapter, [Row(row.example, row.attribution) for row in rows], parse_recipe(recipe), seed=0, top_k=top_k
    )


def decode(adapter: Adapter, ids: Sequence[int]) -> str:
    return str(adapter.tokenizer.decode([one for one in ids if one >= 0], skip_special_tokens=True))


def test_a_classifiers_label_is_its_class(adapter_for: MakeAdapter, rows: list[AnnotatedExample]) -> None:
    found = build(adapter_for("classifier"), rows, "finetune")
    assert [one.label.labels for one in found] == [[row.example.output == "good"] for row in rows]


def test_a_seq2seq_target_is_the_answer_and_the_end(adapter_for: MakeAdapter, rows: list[AnnotatedExample]) -> None:
    adapter = adapter_for("seq2seq")
    for one, row in zip(build(adapter, rows, "finetune"), rows, strict=True):
        assert decode(adapter, one.label.labels) == row.example.output
        assert one.label.labels[-1] == adapter.tokenizer.eos_token_id
        assert adapter.tokenizer.pad_token_id not in one.label.ids


def test_a_decoder_learns_the_answer_and_to_stop_but_not_the_prompt(
    adapter_for: MakeAdapter, rows: list[AnnotatedExample]
) -> None:
    adapter = adapter_for("causal")
    for one, row in zip(build(adapter, rows, "finetune"), rows, strict=True):
        assert decode(adapter, one.label.ids) == f"{row.example.input} {row.example.output}"
        assert decode(adapter, one.label.labels).strip() == row.example.output
        assert one.label.labels[-1] == one.label.ids[-1] == adapter.tokenizer.eos_token_id
        assert len(one.label.labels) == len(one.label.ids) == len(one.label.spans)


def test_a_decoders_text_with_its_end_stays_within_the_window(
    adapter_for: MakeAdapter, rows: list[AnnotatedExample]
) -> None:
    found = build(adapter_for("causal", max_tokens=12), rows, "finetune")
    assert max(len(one.label.ids) for one in found) == 12


def test_two_tasks_have_their_prefixes_and_the_words_in_reading_order(
    adapter_for: MakeAdapter, rows: list[AnnotatedExample]
) -> None:
    adapter = adapter_for("seq2seq", "saliency", TASK.model_copy(update={"template": "Review: {input}"}))
    for one, row in zip(build(adapter, rows, "saliency"), rows, strict=True):
        assert one.label.ids == adapter.tokenizer(f"predict: Review: {row.example.input}")["input_ids"]
        assert one.explanation is not None
        assert one.explanation.ids == adapter.tokenizer(f"explain: Review: {row.example.input}")["input_ids"]
        words = " ".join(word.text for word in row.attribution.rationale)
        assert one.explanation.labels == adapter.tokenizer(words)["input_ids"]


def test_top_k_keeps_the_strongest_words(rows: list[AnnotatedExample]) -> None:
    row = next(row for row in rows if len(row.attribution.rationale) == 2)
    (word,) = chosen_words(Row(row.example, row.attribution), parse_recipe("saliency"), 0, top_k=1)
    assert word.score == max(one.score for one in row.attribution.words)


def test_a_rationale_that_is_short_enough_is_trained_on_as_it_was_selected(rows: list[AnnotatedExample]) -> None:
    row = next(row for row in rows if len(row.attribution.words) > 2)
    first, second, third = row.attribution.words[:3]
    span = (first, second.model_copy(update={"score": -1.0}), third)
    selected = row.attribution.model_copy(update={"rationale": span})
    assert chosen_words(Row(row.example, selected), parse_recipe("saliency"), 0, top_k=3) == list(span)


def test_batches_go_by_the_text_and_not_by_what_is_written_behind_it(
    adapter_for: MakeAdapter, rows: list[AnnotatedExample]
) -> None:
    adapter = adapter_for("causal")
    built = [build(adapter, rows, recipe) for recipe in ("finetune", "label_then_rationale")]
    assert [len(one.label.ids) for one in built[0]] != [len(one.label.ids) for one in built[1]]
    plain, written = ([one.length for one in some] for some in built)
    assert plain == written


def test_the_gate_marks_every_token_of_a_word_and_nothing_else(
    adapter_for: MakeAdapter, rows: list[AnnotatedExample]
) -> None:
    adapter = adapter_for("classifier")
    for one, row in zip(build(adapter, rows, "rationale_gate"), rows, strict=True):
        assert one.marks is not None
        for span, target in zip(one.label.spans, one.marks, strict=True):
            inside = span and any(w.start < span[1] and span[0] < w.end for w in row.attribution.rationale)
            assert target == (None if span is None else int(bool(inside)))
        assert one.marks[0] is None, "the start token is no part of the text"
        assert one.marks[-1] is None, "nor is the end token"
        assert 1 in one.marks


def test_the_template_is_no_part_of_the_gate(adapter_for: MakeAdapter, rows: list[AnnotatedExample]) -> None:
    plain = build(adapter_for("classifier"), rows, "rationale_gate")
    framed_task = TASK.model_copy(update={"template": "it is a film: {input} was it"})
    framed = build(adapter_for("classifier", task=framed_task), rows, "rationale_gate")
    for one, other in zip(plain, framed, strict=True):
        assert [target for target in one.marks or [] if target is not None] == [
            target for target in other.marks or [] if target is not None
        ]


def test_the_distribution_follows_the_order_of_the_classes(
    adapter_for: MakeAdapter, rows: list[AnnotatedExample]
) -> None:
    found = build(adapter_for("classifier"), rows, "logit_kd")
    assert [one.distribution for one in found] == [
        [0.1, 0.9] if row.example.output == "good" else [0.9, 0.1] for row in rows
    ]


def test_candidates_of_a_writing_student_are_the_rows_own_choices(adapter_for: MakeAdapter) -> None:
    task = TaskSpec(kind="choice")
    example = Example(id="1", input="Where is the film?", output="music", choices=("music", "rain", "music", "name"))
    said = Attribution(
        id="1",
        prediction="music",
        probability=0.5,
        probabilities={"name": 0.2, "rain": 0.3, "music": 0.5},
        explained="music",
        words=(Word(text="film", start=13, end=17, score=1.0),),
        rationale=(Word(text="film", start=13, end=17, score=1.0),),
        tokens=3,
    )
    adapter = adapter_for("seq2seq", task=task)
    (one,) = build_instances(adapter, [Row(example, said)], parse_recipe("logit_kd"), seed=0, top_k=5)
    assert one.distribution == [0.5, 0.3, 0.2]
    assert [decode(adapter, ids) for ids in one.candidates or []] == ["music", "rain", "name"]


def test_a_distribution_over_other_answers_is_not_used(adapter_for: MakeAdapter, rows: list[AnnotatedExample]) -> None:
    other = rows[0].attribution.model_copy(update={"probabilities": {"good": 0.6, "awful": 0.4}})
    changed = [rows[0].model_copy(update={"attribution": other}), *rows[1:]]
    found = build(adapter_for("classifier"), changed, "logit_kd")
    assert found[0].distribution is None
    assert found[1].distribution is not None


@pytest.mark.parametrize(
    ("recipe", "silent"), [("rationale_gate", {"rationale": ()}), ("logit_kd", {"probabilities": None})]
)
def test_a_recipe_without_any_of_its_signal_is_refused(
    adapter_for: MakeAdapter, rows: list[AnnotatedExample], recipe: str, silent: dict[str, object]
) -> None:
    mute = [row.model_copy(update={"attribution": row.attribution.model_copy(update=silent)}) for row in rows]
    with pytest.raises(InvalidRequest, match="no training row has") as caught:
        build(adapter_for("classifier"), mute, recipe)
    assert caught.value.param == "recipe"


CONTROL = parse_recipe("rationale_gate+random_rationale")


def test_the_control_names_as_many_words_of_the_same_input(rows: list[AnnotatedExample]) -> None:
    for row in rows:
        drawn = chosen_words(Row(row.example, row.attribution), CONTROL, 0, top_k=5)
        assert len(drawn) == len(row.attribution.rationale)
        assert set(drawn) <= set(row.attribution.words)
        assert len(set(drawn)) == len(drawn)
        assert [word.start for word in drawn] == sorted(word.start for word in drawn)


def test_the_draw_depends_on_seed_and_example_and_on_nothing_else(rows: list[AnnotatedExample]) -> None:
    long = [row for row in rows if len(row.attribution.words) > 10]

    def draw(seed: int, order: int) -> dict[str, list[Word]]:
        return {
            row.example.id: chosen_words(Row(row.example, row.attribution), CONTROL, seed, 5) for row in long[::order]
        }

    assert draw(0, 1) == draw(0, -1)
    assert draw(0, 1) != draw(1, 1)
    twin = long[0].model_copy(update={"example": long[0].example.model_copy(update={"id": "twin"})})
    first, second = (
        [chosen_words(Row(row.example, row.attribution), CONTROL, seed, 5) for seed in range(5)]
        for row in (long[0], twin)
    )
    assert first != second, "equal texts of different examples are drawn apart"


def test_the_control_is_not_the_teachers_choice_in_disguise(rows: list[AnnotatedExample]) -> None:
    drawn = [chosen_words(Row(row.example, row.attribution), CONTROL, seed, 5) for row in rows for seed in range(50)]
    hits = sum(any(word.score == 10 for word in words) for words in drawn) / len(drawn)
    by_chance = [len(row.attribution.rationale) / len(row.attribution.words) for row in rows]
    assert hits == pytest.approx(sum(by_chance) / len(rows), abs=0.04)


def test_a_subsample_is_the_same_whatever_the_order_and_keeps_it(rows: list[AnnotatedExample]) -> None:
    plain = [Row(row.example) for row in rows]
    chosen = select_rows(plain, 7)
    assert len(chosen) == 7
    assert {row.example.id for row in select_rows(plain[::-1], 7)} == {row.example.id for row in chosen}
    assert chosen == [row for row in plain if row in chosen]
    assert {row.example.id for row in select_rows(plain, 3)} <= {row.example.id for row in chosen}
    assert select_rows(plain, None) == select_rows(plain, 1000) == plain


def test_the_order_of_the_control_is_drawn_and_its_words_are_the_teachers(rows: list[AnnotatedExample]) -> None:
    shuffled = parse_recipe("saliency+shuffled_rationale")
    given = [Row(row.example, row.attribution) for row in rows]
    drawn = [chosen_words(row, shuffled, 0, top_k=5) for row in given]
    kept = [chosen_words(row, parse_recipe("saliency"), 0, top_k=5) for row in given]
    assert [sorted(words, key=lambda word: word.start) for words in drawn] == kept
    assert drawn != kept


def test_the_control_of_a_map_deals_out_the_same_scores(rows: list[AnnotatedExample]) -> None:
    row = Row(rows[0].example, rows[0].attribution)
    own, dealt = (
        word_scores(row, parse_recipe(f"attribution_alignment{more}"), 0) for more in ("", "+random_rationale")
    )
    assert own == list(rows[0].attribution.words)
    assert [word.text for word in dealt] == [word.text for word in own]
    assert sorted(word.score for word in dealt) == sorted(word.score for word in own)
    assert dealt != own


def test_a_map_gives_every_token_to_its_word(adapter_for: MakeAdapter, rows: list[AnnotatedExample]) -> None:
    adapter = adapter_for("causal")
    for one, row in zip(build(adapter, rows, "attribution_alignment"), rows, strict=True):
        assert one.map is not None
        for span, owner in zip(one.label.spans, one.map.owners, strict=True):
            within = [i for i, word in enumerate(row.attribution.words) if span and word.start < span[1] <= word.end]
            assert owner == (within[0] if within else None)
        scores = torch.tensor([word.score for word in row.attribution.words])
        assert one.map.scores == pytest.approx((scores / scores.norm()).tolist())


def test_words_that_speak_against_the_answer_or_were_cut_off_have_no_share(
    adapter_for: MakeAdapter, rows: list[AnnotatedExample]
) -> None:
    words = rows[0].attribution.words
    scores = [3.0, 4.0, -9.0, *[0.0] * (len(words) - 3)]
    said = [word.model_copy(update={"score": score}) for word, score in zip(words, scores, strict=True)]
    row = rows[0].model_copy(update={"attribution": rows[0].attribution.model_copy(update={"words": tuple(said)})})
    (one,) = build(adapter_for("classifier"), [row], "attribution_alignment")
    assert one.map is not None
    assert one.map.scores[:3] == pytest.approx([0.6, 0.8, 0.0])
    (cut,) = build(adapter_for("classifier", max_tokens=6), [row], "attribution_alignment")
    assert cut.map is not None
    assert len(cut.map.scores) < len(words)


def test_the_forms_of_an_answer_hold_the_words_in_their_order(
    adapter_for: MakeAdapter, rows: list[AnnotatedExample]
) -> None:
    adapter = adapter_for("seq2seq")
    for recipe in ("label_then_rationale", "rationale_then_label", "rationale_then_label+random_rationale"):
        for one, row in zip(build(adapter, rows, recipe), rows, strict=True):
            words = chosen_words(Row(row.example, row.attribution), parse_recipe(recipe), 0, top_k=5)
            expected = compose(parse_recipe(recipe).form, row.example.output, [word.text for word in words])
            assert one.label.labels == adapter.tokenizer(text_target=expected)["input_ids"]


@pytest.mark.parametrize("architecture", ["seq2seq", "causal"])
def test_a_candidate_stands_where_the_label_does(
    adapter_for: MakeAdapter, rows: list[AnnotatedExample], architecture: str
) -> None:
    adapter = adapter_for(architecture)
    end = adapter.tokenizer.eos_token_id
    for one, row in zip(build(adapter, rows, "rationale_then_label+logit_kd"), rows, strict=True):
        gold = [ids for ids in one.candidates or [] if ids == [label for label in one.label.labels if label >= 0]]
        assert len(gold) == 1, f"the gold answer of {row.example.id} is what is written"
    for one, row in zip(build(adapter, rows, "label_then_rationale+logit_kd"), rows, strict=True):
        written = [label for label in one.label.labels if label >= 0]
        for name, target in zip(TASK.labels, one.candidates or [], strict=True):
            assert target[-1] != end, "the words are still to come"
            assert (written[: len(target)] == target) == (name == row.example.output)


@pytest.mark.parametrize("architecture", ["seq2seq", "causal"])
def test_a_row_whose_output_does_not_fit_is_named(
    adapter_for: MakeAdapter, rows: list[AnnotatedExample], architecture: str
) -> None:
    adapter = adapter_for(architecture, task=TaskSpec())
    long = rows[7].model_copy(update={"example": rows[7].example.model_copy(update={"output": "good " * 300})})
    with pytest.raises(ModelError, match=f"training row '{long.example.id}' does not fit.*room for") as caught:
        build(adapter, [*rows[:7], long], "finetune")
    assert caught.value.param == "output"


@pytest.mark.parametrize("architecture", ["seq2seq", "causal"])
def test_a_rationale_that_does_not_fit_leaves_its_row_to_train_the_label_alone(
    adapter_for: MakeAdapter, rows: list[AnnotatedExample], architecture: str
) -> None:
    adapter = adapter_for(architecture, "step_by_step")
    told = [
        row.model_copy(update={"example": row.example.model_copy(update={"rationale": "so it is"})}) for row in rows
    ]
    long = told[0].model_copy(update={"example": told[0].example.model_copy(update={"rationale": "so " * 400})})
    found = build(adapter, [long, *told[1:4]], "step_by_step")
    assert [one.has_reasons for one in found] == [False, True, True, True]


@pytest.mark.parametrize("form", ["label_then_rationale", "rationale_then_label"])
def test_words_that_leave_no_room_for_the_answer_are_not_written(
    adapter_for: MakeAdapter, rows: list[AnnotatedExample], form: str
) -> None:
    whole = [len(one.label.labels) for one in build(adapter_for("seq2seq", max_tokens=512), rows, form, top_k=100)]
    window = sorted(whole)[len(whole) // 2]
    adapter = adapter_for("seq2seq", max_tokens=window)
    found = build(adapter, rows, form, top_k=100)
    written = [decode(adapter, one.label.labels) for one in found]
    assert max(len(one.label.labels) for one in found) <= window < max(whole)
    alone = {compose(parse_recipe(form).form, label, []) for label in ("bad", "good")}
    assert any(text in alone for text in written)
    assert any(text not in alone for text in written)
