from pathlib import Path

from niyama.bench.plots import colour, data_uri, figure, save_png


def test_the_same_figure_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        with figure() as (canvas, axes):
            axes.plot([0, 1], [1, 0], color=colour("niyama"))
            save_png(canvas, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_page_can_hold_a_figure() -> None:
    with figure(ncols=2) as (canvas, axes):
        axes[0].bar(["a"], [1])
        assert data_uri(canvas).startswith("data:image/svg+xml;base64,")


def test_what_has_no_colour_of_its_own_gets_one_in_turn() -> None:
    assert colour("edf") != colour("niyama")
    assert colour("chat", 0) != colour("chat", 1)
