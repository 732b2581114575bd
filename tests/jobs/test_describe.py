"""What a registered version says of itself."""

from __future__ import annotations

from gan_plugin.jobs.describe import METRICS_HEADING, in_classes, with_metrics

FID = {"name": "fid", "value": 1.23456, "real": 0.5, "network": ""}
MODES = {"name": "modes", "value": 10.0, "real": None, "network": "classifier"}


def results(*measurements: dict[str, object]) -> dict[str, object]:
    return {"network": "inception", "measurements": measurements}


def test_metrics_take_the_place_of_earlier_ones_and_leave_the_rest() -> None:
    description = f"A generator.\n\n{METRICS_HEADING}\n\nNone yet.\n\n**Limits**\n\nSome.\n\nWritten by a person."
    first = with_metrics(description, results(FID, MODES), run_id="a1")
    assert "| fid/inception | 1.235 | 0.5 |\n| modes/classifier | 10 |  |\n\nFrom the run `a1`" in first
    assert "None yet" not in first
    assert first.startswith("A generator.\n\n")
    assert first.endswith("\n\n**Limits**\n\nSome.\n\nWritten by a person.")
    noted = with_metrics(f"{METRICS_HEADING}\n\nNone yet: soon.\n\nBy a person.", results(FID), run_id="a1")
    assert noted.endswith("images.\n\nBy a person.")
    second = with_metrics(first, results({**FID, "value": 9.0}), run_id="b2")
    assert "| fid/inception | 9 | 0.5 |\n\nFrom the run `b2`" in second
    assert "a1" not in second
    assert second.count(METRICS_HEADING) == 1
    assert second.endswith("\n\n**Limits**\n\nSome.\n\nWritten by a person.")


def test_a_description_without_metrics_gets_them_at_its_end() -> None:
    assert with_metrics("By hand.", results(FID), run_id="a1").startswith(
        f"By hand.\n\n{METRICS_HEADING}\n\n| metric |"
    )
    assert with_metrics("", results(FID), run_id="a1").startswith(METRICS_HEADING)


def test_many_classes_are_named_in_part() -> None:
    assert in_classes(tuple(map(str, range(21)))).startswith(", in 21 classes (0, 1, ")
    assert in_classes(tuple(map(str, range(21)))).endswith("19, … (21 in all))")
    assert in_classes(()) == ""
