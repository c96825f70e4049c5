"""Steps are done once for their inputs; a change redoes what depends on it."""

from __future__ import annotations

import pytest

from univg.recipe_steps import DONE, Chain, Step, hash_content, hash_each, list_files


def make_chain(out, source, calls, *, first=1, second=1, fails=(), say=lambda _: None):
    """Two branches on one root, and a step that joins them."""
    chain = Chain(out, say=say)

    def work_of(name):
        def work(folder, upstream):
            calls.append(name)
            if name in fails:
                (folder / "half").write_text("half")
                raise KeyboardInterrupt
            texts = [(upstream[each] / "text").read_text() for each in sorted(upstream)]
            (folder / "text").write_text(name + "(" + " ".join(texts) + ")")
            return {"length": len(texts)}

        return work

    for step in (
        Step(name="root", inputs=[source], work=work_of("root")),
        Step(name="left", settings={"x": first}, after=["root"], work=work_of("left")),
        Step(name="right", settings={"x": second}, after=["root"], work=work_of("right")),
        Step(name="join", after=["left", "right"], work=work_of("join")),
    ):
        chain.do(step)
    return chain


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "a.png").write_text("one")
    return folder


def test_a_second_run_does_nothing(source, tmp_path):
    calls = []
    first = make_chain(tmp_path / "out", source, calls)
    assert calls == ["root", "left", "right", "join"]
    text = (first.results["join"].folder / "text").read_text()
    assert text == "join(left(root()) right(root()))"
    calls.clear()
    again = make_chain(tmp_path / "out", source, calls)
    assert calls == [] and all(result.skipped for result in again.results.values())
    assert again.results["join"].facts == {"length": 2}
    assert again.results["join"].seconds == first.results["join"].seconds


def test_a_change_redoes_what_depends_on_it(source, tmp_path):
    calls = []
    make_chain(tmp_path / "out", source, calls)
    calls.clear()
    make_chain(tmp_path / "out", source, calls, first=2)
    assert calls == ["left", "join"]
    calls.clear()
    make_chain(tmp_path / "out", source, calls)  # back again: nothing was deleted
    assert calls == []
    (source / "a.png").write_text("two")
    make_chain(tmp_path / "out", source, calls)
    assert calls == ["root", "left", "right", "join"]


def test_inputs_are_known_by_their_content(source, tmp_path):
    before = hash_content(source)
    (source / ".hidden").write_text("x")
    assert hash_content(source) == before
    moved = source.rename(tmp_path / "elsewhere")
    assert hash_content(moved) == before
    (moved / "a.png").rename(moved / "b.png")
    assert hash_content(moved) != before


def test_what_is_no_picture_does_not_count_and_files_are_read_at_once(source, tmp_path):
    before = hash_content(source)
    (source / "Thumbs.db").write_text("x")
    assert hash_content(source) == before
    (source / "manifest.jsonl").write_text("")
    assert hash_content(source) != before
    calls = []

    def hash_counting(paths):
        calls.append(list(paths))
        return hash_each(paths)

    files = [source / name for name in ("a.png", "Thumbs.db")]
    chain = Chain(tmp_path / "out", hash_files=hash_counting)
    step = Step(name="one", inputs=[*files, source], work=lambda *_: None)
    key = chain.key_of(step)
    assert calls[0] == files and len(calls) == 2  # and the folder
    assert chain.key_of(step) == key and len(calls) == 2


def test_a_step_that_was_interrupted_goes_on_in_its_folder(source, tmp_path):
    calls = []
    with pytest.raises(KeyboardInterrupt):
        make_chain(tmp_path / "out", source, calls, fails=["right"])
    calls.clear()
    chain = make_chain(tmp_path / "out", source, calls)
    assert calls == ["right", "join"]
    assert (chain.results["right"].folder / "half").exists()


def damage_note(folder):
    (folder / DONE).write_text("{")


def shorten(folder):
    (folder / "text").write_text("le")


def lose(folder):
    (folder / "text").unlink()


@pytest.mark.parametrize("hurt", [damage_note, shorten, lose])
def test_a_damaged_step_is_done_anew(source, tmp_path, hurt):
    chain = make_chain(tmp_path / "out", source, [])
    left = chain.results["left"].folder
    good = (left / "text").read_bytes()
    hurt(left)
    (left / "half").mkdir()
    calls: list[str] = []
    said: list[str] = []
    again = make_chain(tmp_path / "out", source, calls, say=said.append)
    assert calls == ["left"]
    assert (left / "text").read_bytes() == good and not (left / "half").exists()
    assert not again.results["left"].skipped and again.results["join"].skipped
    assert sum("it is done anew" in line and str(left) in line for line in said) == 1
    calls.clear()
    make_chain(tmp_path / "out", source, calls)
    assert calls == []


def test_what_is_added_or_spare_is_no_damage(source, tmp_path):
    left = make_chain(tmp_path / "out", source, []).results["left"].folder
    (left / "own.txt").write_text("a note of the user's")
    calls: list[str] = []
    make_chain(tmp_path / "out", source, calls)
    assert calls == [] and (left / "own.txt").exists()
    (left / "run" / "checkpoints").mkdir(parents=True)
    (left / "run" / "checkpoints" / "step").write_text("weights")
    assert list(list_files(left)) == ["own.txt", "text"]
