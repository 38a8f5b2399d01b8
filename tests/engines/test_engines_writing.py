"""Writing on: settings, pieces, scores, several texts in turn, several texts of one prompt, for every engine."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from halfpint.bundle import Bundle, new_bundle, write_json
from halfpint.engines import Generation, Piece, open_language_engine
from halfpint.errors import HalfpintError

ENGINES = {"torch_lm": "language", "llama_cpp": "gguf", "ngram": "ngram"}
LONG = Generation(max_tokens=30, temperature=1.0)


@pytest.fixture(scope="module", params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest, bundles: Callable[[str], Bundle]) -> Any:
    if request.param != "ngram":
        pytest.importorskip("xllamacpp" if request.param == "llama_cpp" else "transformers")
    return open_language_engine(bundles(ENGINES[request.param]), threads=1)


@pytest.fixture(scope="module")
def transformer(bundles: Callable[[str], Bundle]) -> Any:
    pytest.importorskip("transformers")
    return open_language_engine(bundles("language"), threads=1)


def whole(pieces: Iterator[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def in_turn(*texts: Iterator[Piece]) -> list[str]:
    """Several texts, a piece of each in turn."""
    found = [""] * len(texts)
    for pieces in itertools.zip_longest(*texts):
        for place, piece in enumerate(pieces):
            found[place] += piece.text if piece else ""
    return found


def test_the_last_piece_says_how_it_ended(engine: Any) -> None:
    pieces = list(engine.write("My order", LONG))
    assert [piece.finish for piece in pieces[:-1]] == [""] * (len(pieces) - 1)
    assert pieces[-1].finish in ("stop", "length")
    assert [piece.written for piece in pieces[:-1]] == list(range(1, len(pieces)))
    assert whole(iter(pieces)) == "".join(engine.generate("My order", max_tokens=30, temperature=1.0))
    cut = list(engine.write("My order", replace(LONG, max_tokens=2)))
    assert (cut[-1].finish, cut[-1].written) in (("length", 2), ("stop", 1), ("stop", 0))
    assert not any(piece.tokens or piece.log_probability for piece in pieces)


def test_texts_in_turn_are_those_alone(engine: Any) -> None:
    asked = [("My order", 1), ("My order", 2), ("The app crashes when I", 3), ("", 4)]
    alone = [whole(engine.write(prompt, replace(LONG, seed=seed))) for prompt, seed in asked]
    assert len(set(alone)) > 2
    assert in_turn(*(engine.write(prompt, replace(LONG, seed=seed)) for prompt, seed in asked)) == alone
    some = engine.write("My order", replace(LONG, seed=1))
    next(some)
    some.close()
    assert whole(engine.write("My order", replace(LONG, seed=1))) == alone[0]


def test_a_prompt_of_ids_is_taken_as_it_is(engine: Any) -> None:
    ids = engine.start("My order")
    ours = whole(engine.write(ids, LONG))
    assert ours.lstrip() == whole(engine.write("My order", LONG)).lstrip()
    assert engine.count("My order is late") == len(engine.encode("My order is late")) > 1
    with pytest.raises(HalfpintError, match="prompt: expected one token or more"):
        engine.write([], LONG)


def test_scores_are_those_of_the_text(engine: Any) -> None:
    settings = replace(LONG, temperature=0.7, top_k=30, logprobs=2, max_tokens=12)
    seed = next(seed for seed in range(20) if len(list(engine.write("I was", replace(settings, seed=seed)))) > 4)
    pieces = list(engine.write("I was", replace(settings, seed=seed)))
    tokens = [token for piece in pieces for token in piece.tokens]
    assert len(tokens) == pieces[-1].written > 0
    joined = b"".join(token.bytes for token in tokens).decode("utf-8", "replace")
    text = whole(iter(pieces))
    assert joined.replace(" ", "") == text.replace(" ", "")
    for token in tokens:
        assert len(token.top) == 2 and token.top[0][1] >= token.top[1][1]
        assert token.log_probability <= token.top[0][1] + 1e-6 and token.log_probability < 0
    # The model's own scores of the same text, at temperature 1 and with nothing cut off.
    scored = engine.score(["I was" + text])[0].log_probabilities
    first = engine.count("I was")
    if engine.encode("I was" + text)[first : first + len(tokens)] == [
        number for token in tokens for number in engine.encode(token.bytes.decode("utf-8", "replace"))
    ]:
        np.testing.assert_allclose(
            [token.log_probability for token in tokens], scored[first : first + len(tokens)], atol=2e-2
        )
    total = sum(token.log_probability for token in tokens)
    assert pieces[-1].log_probability <= total + 1e-6
    if pieces[-1].finish == "length":
        assert pieces[-1].log_probability == pytest.approx(total)


def test_a_stop_text_ends_it_wherever_tokens_are_cut(engine: Any) -> None:
    text = whole(engine.write("My order", LONG))
    for start, size in ((1, 1), (4, 3), (6, 5)):
        stop = text[start : start + size]
        if not stop.strip():
            continue
        pieces = list(engine.write("My order", replace(LONG, stop=("never there", stop), logprobs=0)))
        assert whole(iter(pieces)) == text[: text.index(stop)]
        assert pieces[-1].finish == "stop"
        given = sum(len(token.text.strip()) for piece in pieces for token in piece.tokens)
        assert given >= len("".join(text[: text.index(stop)].split()))
    # What may begin a stop text is held back, and given when it does not.
    odd = text[5:8] + "\x00"
    assert whole(engine.write("My order", replace(LONG, stop=(odd,)))) == text


def test_the_best_of_several(engine: Any) -> None:
    settings = Generation(max_tokens=6, temperature=1.2, seed=3)
    found = engine.best("My order", 4, settings)
    assert 1 <= len(found) <= 4 and len({one.text for one in found}) == len(found)
    means = [one.mean_log_probability for one in found]
    assert means == sorted(means, reverse=True) and max(means) < 0
    drawn = {whole(engine.write("My order", replace(settings, seed=seed))) for seed in range(3, 7)}
    assert {one.text for one in found} == drawn
    (only,) = engine.best("My order", 1, replace(settings, temperature=0.0))
    assert only.text == whole(engine.write("My order", replace(settings, temperature=0.0)))
    with pytest.raises(HalfpintError, match="n must be 1 or more, not 0"):
        engine.best("My order", 0, settings)


def test_beams_find_what_is_likelier_than_the_greedy_text(engine: Any) -> None:
    settings = Generation(max_tokens=5, temperature=0.0)
    greedy = engine.best("The", 1, settings)[0]
    found = engine.best("The", 5, settings)
    assert len({one.text for one in found}) == len(found) == 5
    assert found[0].mean_log_probability >= greedy.mean_log_probability - 1e-5
    for one in found:
        ended = one.finish == "stop"
        assert one.log_probability == pytest.approx(one.mean_log_probability * (len(one.tokens) + ended), rel=1e-5)
    with pytest.raises(HalfpintError, match="repetition_penalty must be 1"):
        engine.best("The", 3, replace(settings, repetition_penalty=1.2))


def test_beams_are_the_likeliest_there_are(transformer: Any) -> None:
    """Every text of two tokens is weighed, and those of one that end."""
    from halfpint.engines._writing import log_softmax

    start = transformer.start("The")
    first = log_softmax(transformer.after(start))
    likely = np.argsort(-first)[:40].tolist()
    pairs = []
    for one in likely:
        if one in transformer.ends:
            continue
        second = log_softmax(transformer.after([*start, one]))
        pairs += [(float(first[one] + second[two]), one, two) for two in np.argsort(-second)[:40].tolist()]
    wanted = [pair for pair in sorted(pairs, reverse=True) if pair[2] not in transformer.ends][:3]
    found = transformer.best("The", 40, Generation(max_tokens=2, temperature=0.0))
    totals = sorted((one.log_probability for one in found if one.finish == "length"), reverse=True)[:3]
    np.testing.assert_allclose(totals, [total for total, _, _ in wanted], atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature must be 0 or more, not -1.0"),
        ({"temperature": float("nan")}, "temperature must be 0 or more, not nan"),
        ({"top_p": 0.0}, "top_p must be a share above 0"),
        ({"max_tokens": 0}, "max_tokens must be 1 or more, not 0"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"stop": ("",)}, "stop must be texts that are not empty"),
        ({"logprobs": -1}, "logprobs must be 0 or more"),
        ({"schema": "{}"}, "schema must be a JSON schema: an object"),
        ({"temprature": 1.0}, r"no setting 'temprature' of generation. Did you mean 'temperature'\?"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(HalfpintError, match=message):
        Generation.of(**settings)
    assert Generation.of(stop="end").stop == ("end",)


def test_a_text_that_went_on_elsewhere_is_not_read_again(transformer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each token is run once, whatever the order in which texts ask for them."""
    read: list[int] = []
    model = transformer._read._model

    def counted(**given: Any) -> Any:
        read.append(given["input_ids"].shape[1])
        return model(**given)

    monkeypatch.setattr(transformer._read, "_model", counted)
    monkeypatch.setattr(transformer._read, "_held", [])
    prompt = transformer.start("Where is the parcel that I was told of")
    settings = [Generation(max_tokens=10, temperature=1.5, seed=seed) for seed in range(3)]
    in_turn(*(transformer.write(prompt, one) for one in settings))
    assert read[0] == len(prompt) and set(read[1:]) == {1}
    monkeypatch.setattr("halfpint.engines._prefix_cache._MOST_BYTES", 1)
    transformer.after(prompt)
    assert len(transformer._read._held) == 1


def test_a_gguf_text_that_is_taken_up_again_is_not_read_again(
    bundles: Callable[[str], Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("xllamacpp")
    engine: Any = open_language_engine(bundles("gguf"), threads=1)
    read: list[int] = []
    run = engine.model._run

    def counted(ids: list[int], start: int, end: int, first: int, out: Any) -> None:
        read.append(end - start)
        run(ids, start, end, first, out)

    monkeypatch.setattr(engine.model, "_run", counted)
    prompts = ["Where is the parcel that I was told of?", "The app crashes when I open my account page."]
    assert all(engine.count(prompt) > 10 for prompt in prompts)
    settings = Generation(max_tokens=10, temperature=1.5)
    in_turn(*(engine.write(prompt, settings) for prompt in prompts))
    first, second = (len(engine.start(prompt)) for prompt in prompts)
    assert sorted(read)[-2:] == sorted([first, second - 1])  # both begin with the start token
    assert set(sorted(read)[:-2]) == {1} and len(engine.model._others) == 1
    monkeypatch.setattr("halfpint.engines.llama_cpp._MOST_BYTES", 1)
    engine.after(engine.start("Something else altogether, and at length."))
    assert len(engine.model._others) == 1
    engine.score(["A text that is only scored takes no room."])
    assert len(engine.model._others) == 1

    def interrupted(*given: Any) -> None:
        run(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(engine.model, "_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.after(engine.start(prompts[0]))
    monkeypatch.setattr(engine.model, "_run", run)
    again = "".join(engine.generate(prompts[0], max_tokens=5, temperature=0.0))
    assert again == "".join(open_language_engine(bundles("gguf"), threads=1).generate(
        prompts[0], max_tokens=5, temperature=0.0))  # fmt: skip


@pytest.mark.parametrize("kind", ["gemma3_text", "lfm2"])
def test_caches_that_cannot_be_cut(kind: str, tmp_path: Any) -> None:
    """Sliding windows that are full, and states that are not one a token: texts in turn are those alone."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from halfpint.engines._prefix_cache import PrefixCache

    settings: dict[str, Any] = {
        "vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "intermediate_size": 32, "head_dim": 8, "max_position_embeddings": 128, "initializer_range": 0.5,
    }  # fmt: skip
    if kind == "gemma3_text":
        settings |= {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}
    else:
        settings |= {"layer_types": ["conv", "full_attention"], "conv_L_cache": 3, "block_multiple_of": 8}
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(kind, **settings)).eval()
    cache = PrefixCache(model)
    texts = [list(np.random.default_rng(seed).integers(1, 60, 20)) for seed in range(2)]
    texts[1][:8] = texts[0][:8]
    for length in range(3, 20):
        for ids in ([*map(int, text[:length])] for text in texts):
            with torch.no_grad():
                wanted = model(input_ids=torch.tensor([ids])).logits[0, -1].numpy()
            np.testing.assert_allclose(cache.read(ids)[0], wanted, atol=1e-4)


def test_a_text_that_begins_with_the_start_token_has_one(bundles: Callable[[str], Bundle], tmp_path: Any) -> None:
    pytest.importorskip("xllamacpp")
    for name in ("language", "gguf"):
        engine: Any = open_language_engine(bundles(name), threads=1)
        (first,) = engine.start("")
        named = engine.token(first).decode()
        assert engine.start(named + "My order") == engine.start("My order") == [first, *engine.encode("My order")]
        assert first not in engine.encode(named, False) and engine.encode(named) == [first]


def test_all_ends_of_generation_config_end_a_text(bundles: Callable[[str], Bundle], tmp_path: Any) -> None:
    pytest.importorskip("transformers")
    import shutil

    source = bundles("language")
    with new_bundle(tmp_path / "made", source) as (made, _):
        for file in source.path.iterdir():
            if file.name not in ("card.json", "README.md"):
                shutil.copyfile(file, made / file.name)
        write_json(made / "generation_config.json", {"eos_token_id": [0, 5, 7]})
    engine: Any = open_language_engine(Bundle(tmp_path / "made"), threads=1)
    assert {5, 7} <= set(engine.ends)
