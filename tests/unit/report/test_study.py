"""The page of a study of networks: positions computed by hand, every value in every language, and nothing but its own code."""

from __future__ import annotations

from typing import Any

import pytest
from pages import ATTACKS, NO_BREAK, THIN, WORDS, alien_words, has_only_own_code, page_of

from fruits.report import render_preprocessing_study, render_scaling_study, render_storage_study, render_study
from fruits.report.study.costs import plot_costs, ticks_within
from fruits.report.study.scaling import bars, plot_plans, plot_rates


def a_score(accuracy: float | None, low: float, high: float, **changes: Any) -> dict[str, Any]:
    return {
        "accuracy": accuracy, "low": low, "high": high, "kind_accuracy": None, "kind_low": None, "kind_high": None,
        "calibration_error": 0.0123, "leakage": 0.0, "seen": False, "photos": 100, "groups": 50, "too_few_to_say": False,
    } | changes  # fmt: skip


def a_network(name: str, cost: float, score: dict[str, Any] | None, **changes: Any) -> dict[str, Any]:
    protocols = {"groups": score or a_score(None, 0.8, 0.95, seen=True)}
    return {
        "name": name, "title": name, "backbone": name, "size": 100, "number_format": "int8", "device": "cpu", "run": name * 8,
        "seen_share": 0.885 if name == "large" else 0.0,
        "file_bytes": 3_765_071, "embedding_size": 1280, "components": 118, "embedding_bytes_per_million": 5_120_000_000,
        "components_for": [{"share": s, "components": k} for s, k in ((0.9, 40), (0.95, 81), (0.99, None))],
        "feature_bytes_per_million": 472_000_000, "protocols": protocols, "score": score, "frontier": False,
        "measured_photos": 256, "photos_per_s": 1000 / cost, "photos_per_s_low": 900 / cost, "photos_per_s_high": 1100 / cost,
        "core_s_per_1000": cost, "peak_memory_mb": 234, "seconds_of_run": 10.0,
    } | changes  # fmt: skip


def a_study(**changes: Any) -> dict[str, Any]:
    rows = [
        a_network("small", 1.0, a_score(0.8, 0.75, 0.85), frontier=True),
        a_network("middle", 4.0, a_score(0.7, 0.6, 0.75)),
        a_network("large", 16.0, a_score(0.9, 0.85, 0.95), frontier=True),
        a_network("known", 2.0, None),
    ]
    return {
        "format": 1, "study": "backbones", "fruits": "0.1.0", "command": "fruits study backbones photos --to out",
        "started": "2026-11-29T05:00:00+00:00", "machine": {"cpu": "A processor", "cores": 2, "load": 9.3, "busy": True},
        "out": "out", "sources": [{"source": "photos", "photos": 1972}], "photos": 1972, "labels": 81, "repeats": 5,
        "protocol": "groups", "rows": rows, "recommended": "large" * 8, "seconds": {"total": 61.3},
    } | changes  # fmt: skip


def test_points_lie_where_cost_and_accuracy_put_them() -> None:
    plot = plot_costs(a_study())
    assert plot is not None
    # The axis of cost goes from 1 / 1.25 to 16 * 1.25, a factor of 25: 1 lies at log 1.25 / log 25 = 6.93 %, 4 at 50 %.
    assert [point.x for point in plot.points] == [6.93, 50.0, 93.07]
    # The lowest bound is 0.6, so the axis of accuracy goes from 0.5 to 1: 0.8 lies 40 % from the top.
    assert [(point.y, point.low, point.high) for point in plot.points] == [
        (40.0, 50.0, 30.0),
        (60.0, 80.0, 50.0),
        (20.0, 30.0, 10.0),
    ]
    assert plot.line == "6.93,40 93.07,20", "the frontier leaves out the network that is dearer and worse"
    assert [point.number for point in plot.points if point.recommended] == [3]


def test_an_axis_of_less_than_a_decade_has_a_tick_per_digit() -> None:
    assert ticks_within(0.8, 20) == [1, 2, 5, 10, 20]
    assert ticks_within(2.5, 8.2) == [3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    ("language", "sentences"),
    [
        ("en", ["90.0% right labels with large at 100 pixels", "85.0% to 95.0%", "0.012", "234 MB", "3.8 MB", "5.12 GB", "81"]),
        ("en", ["load 9.3 on 2 cores", "k for 99%", "fruits runs out --use largelargela", "known", "trained on 88.5%"]),
        ("fr", [f"90,0{THIN}% d’étiquettes justes avec large", "0,012", "5,12 Go", "4 réseaux comparés", f"61,3{NO_BREAK}s"]),
        ("es", ["de etiquetas correctas con large a 100 píxeles", "recomendada", "4 redes comparadas"]),
    ],
)  # fmt: skip
def test_page_shows_what_was_measured(language: str, sentences: list[str]) -> None:
    seen = page_of(render_study, a_study()).text(language)
    for sentence in sentences:
        assert sentence in seen


@pytest.mark.parametrize(
    ("language", "sentence"),
    [("en", "8 of 20 sources seen"), ("fr", "8 sources déjà vues sur 20"), ("es", "8 fuentes ya vistas de 20")],
)
def test_scores_of_some_sources_say_so(language: str, sentence: str) -> None:
    score = a_score(None, 0.8, 0.95) | {"kind_accuracy": 0.8, "kind_low": 0.75, "kind_high": 0.85}
    row = a_network("small", 1.0, a_score(0.8, 0.75, 0.85))
    row["protocols"] |= {"source": score | {"sources": 20, "seen_sources": 8}}
    assert sentence in page_of(render_study, a_study(rows=[row])).text(language)
    row["protocols"] |= {"source": score | {"sources": 20, "seen_sources": 0}}
    assert sentence.replace("8", "0") not in page_of(render_study, a_study(rows=[row])).text(language)


def test_a_study_without_any_score_says_why_and_shows_the_rest() -> None:
    page = page_of(render_study, a_study(rows=[a_network("known", 2.0, None)], recommended=None, protocol=None))
    assert WORDS["en"]["study_no_score"] in page.text()
    assert page.text().count(WORDS["en"]["study_no_score_why"]) == 2
    assert page.n("circle") == 0
    assert "500" in page.text(), "photos per second are measured all the same"


def test_page_says_everything_in_every_language() -> None:
    assert not alien_words(page_of(render_study, a_study()))


@pytest.mark.parametrize("attack", ATTACKS)
def test_names_cannot_become_code(attack: str) -> None:
    row = a_network(attack, 1.0, a_score(0.8, 0.75, 0.85), run="ab" * 20, number_format=attack, frontier=True)
    study = a_study(rows=[row], recommended="ab" * 20, command=attack, out=attack)
    study["machine"]["cpu"] = attack
    assert has_only_own_code(page_of(render_study, study))


def a_setting(
    vectors: str, numbers: int, number_format: str, size: float, accuracy: float, **changes: Any
) -> dict[str, Any]:
    codecs = [
        {"codec": name, "bytes_per_photo": size * factor, "write_us": 1.5, "read_us": 2.5}
        for name, factor in (("none", 2), ("zstd", 1))
    ]
    return {
        "vectors": vectors, "numbers": numbers, "number_format": number_format, "accuracy": accuracy, "low": accuracy - 0.05,
        "high": accuracy + 0.05, "codecs": codecs, **codecs[-1], "frontier": False,
    } | changes  # fmt: skip


def a_storage_study(**changes: Any) -> dict[str, Any]:
    classes = [
        {"class": name, "storage": 1.0, "requests": 0.25, "retrieval": 0.0, "total": 1.25, "moving": 3.5, "months": 12,
         "whole": 18.5, "least_days": 30, "break_even_months": months}
        for name, months in (("STANDARD", 0), ("STANDARD_IA", 4), ("GLACIER_IR", None))
    ]  # fmt: skip
    return {
        "format": 1, "study": "storage", "fruits": "0.1.0", "command": "fruits study storage out", "out": "out", "run": "ab" * 20,
        "started": "2026-11-29T05:00:00+00:00", "machine": {"cpu": "A processor", "cores": 2, "load": 0.1, "busy": False},
        "backbone": "fruits-photo", "embedding_size": 1280, "components": 32, "photos": 600, "labels": 50, "repeats": 3,
        "vectors": 531, "validation_photos": 146, "trusted": True, "recommended": 1,
        "settings": [
            a_setting("embeddings", 1280, "float32", 1413.0, 0.89),
            a_setting("features", 32, "int8", 45.0, 0.9, frontier=True),
        ],
        "files": [{"rows_per_file": 64, "files": 9, "bytes_per_photo": 57.0, "write_us": 30.4, "read_us": 55.1}],
        "photo_files": [
            {"kind": kind, "bytes_per_photo": 22056.0, "objects_per_photo": 1.0, "write_us": write, "read_us": 67.8,
             "photos_read": 400}
            for kind, write in (("files", None), ("pack", 631.4))
        ],
        "prices": {"of": "eu-west-1, 2026-11-25", "reads_per_month": 1.0, "months": 12, "photos": 1_000_000},
        "costs": [{"kept": name, "bytes": 1.41e9, "objects": 11.0, "classes": classes, "cheapest": "STANDARD_IA"}
                  for name in ("photos_files", "photos_pack", "embeddings_float32", "recommended")],
        "seconds": {"total": 24.5},
    } | changes  # fmt: skip


@pytest.mark.parametrize(
    ("language", "sentences"),
    [
        ("en", ["45 bytes per photo with 32 numbers in int8", "float32 take 1,413.", "4 months", "never", "1.41 GB"]),
        ("fr", ["45 octets par photo avec 32 nombres en int8", "caractéristiques de 32", "4 mois", "jamais", "1,41 Go"]),
        ("es", ["45 bytes por foto con 32 números en int8", "características de 32 componentes", "4 meses", "nunca"]),
    ],
)  # fmt: skip
def test_page_of_storage_shows_bytes_accuracy_and_costs(language: str, sentences: list[str]) -> None:
    seen = page_of(render_storage_study, a_storage_study()).text(language)
    for sentence in sentences:
        assert sentence in seen


def test_page_of_storage_is_in_every_language_and_holds_only_its_own_code() -> None:
    page = page_of(render_storage_study, a_storage_study(trusted=False))
    assert not alien_words(page)
    assert WORDS["en"]["storage_untrusted"] in page.text()
    attacked = a_storage_study(command=ATTACKS[0], backbone=ATTACKS[0])
    attacked["prices"]["of"] = ATTACKS[0]
    assert has_only_own_code(page_of(render_storage_study, attacked))


def a_run(kind: str, workers: int, total: float, **changes: Any) -> dict[str, Any]:
    stages = {"read": 0.5, "decode": 8.0, "infer": 16.25, "write": 0.25}
    return {
        "kind": kind, "workers": workers, "photos": 2000, "repeats": 3, "photos_per_s": 100.0 * workers,
        "photos_per_s_low": 90.0 * workers, "photos_per_s_high": 110.0 * workers,
        "seconds": {"prepare": 1.0, "session": 0.0, "start": 2.0, "working": total - 3.5, "commit": 0.25, "merge": 0.25,
                    "total": total},
        "total_low": total - 1, "total_high": total + 1, "work": stages, "occupied": dict.fromkeys(stages, 0.81),
        "limits": "infer", "cores_busy": 1.9, "peak_memory_mb": 500,
        "simulated": {"total": total * 1.07, "working": total, "error": 0.07, "working_error": 0.0, "fed": workers == 1},
    } | changes  # fmt: skip


def a_scaling_study(**changes: Any) -> dict[str, Any]:
    def between(value: float) -> dict[str, float]:
        return {"value": value, "low": value * 0.9, "high": value * 1.1}

    curves = [
        {"kind": kind, "points": 2, "fitted": ["rate", "contention"], "assumed": ["coherence"], "rate": between(100.0),
         "contention": between(0.125), "coherence": {"value": 0.0, "low": None, "high": None}, "peak": None,
         "line": [{"workers": n, "photos_per_s": 100.0 * n} for n in (1, 2, 4)], "speedup": 1.78, "workers": 2,
         "limits": "infer", "occupied": {"infer": 0.81}, "cores_busy": 1.9}
        for kind in ("up", "out")
    ]  # fmt: skip
    plans = [
        {"offer": name, "kind": "out", "machines": 8, "cores": 32, "hours": hours, "usd": usd, "requests_usd": 0.4, "busy": 0.9,
         "limit": limit, "driver_hours": 0.1, "frontier": True}
        for name, hours, usd, limit in (("EMR m5.xlarge", 1.5, 40.0, "requests"), ("EC2 m5.xlarge", 15.0, 4.25, "processor"))
    ]  # fmt: skip
    projected = {
        "photos": 10**9,
        "plans": plans,
        "cheapest": 1,
        "fastest": 0,
        "in_time": 0,
        "in_budget": None,
        "driver_gb": 970.0,
    }
    return {
        "format": 1, "study": "scaling", "fruits": "0.1.0", "command": "fruits study scaling photos --to out", "out": "out",
        "started": "2026-11-29T05:00:00+00:00", "machine": {"cpu": "A processor", "cores": 2, "load": 0.1, "busy": False},
        "machine_after": {"cpu": "A processor", "cores": 2, "load": 7.25, "busy": True},
        "backbone": "fruits-photo", "photos": 2000, "labels": 50, "repeats": 3, "cores": 2,
        "runs": [a_run("up", 1, 24.5), a_run("up", 2, 13.5), a_run("out", 1, 30.0), a_run("out", 2, 20.0)],
        "curves": curves, "efficiency": {"up": 0.95, "out": 0.9}, "prices": "eu-west-1, 2026-11-25", "projected": [projected],
        "simulation": {"goal": 0.15, "runs": 4, "not_fed": 2, "median_error": 0.07, "largest_error": 0.123, "within_goal": 2},
        "asked": {"speed": 1.0, "deadline_h": 24.0, "budget_usd": 3.0},
        "requests": {"per_photo": 1.0, "median_s": 0.0304, "p99_s": 0.2, "prefixes": 1, "per_s": 5500.0},
        "seconds": {"total": 24.5},
    } | changes  # fmt: skip


def test_rates_lie_at_their_workers_and_the_law_goes_through_them() -> None:
    plot = plot_rates(a_scaling_study())
    # The axis of workers goes from 0 to 4, that of rates from 0 to 400.
    assert [(mark.x, mark.y) for mark in plot.marks] == [(25, 75), (50, 50), (25, 75), (50, 50)]
    assert {line.points for line in plot.lines} == {"25,75 50,50 100,0"}
    assert [(line.kind, mark.kind) for line, mark in zip(plot.lines, plot.marks[::2], strict=True)] == [
        ("up", "up"),
        ("out", "out"),
    ]


def test_parts_of_a_run_follow_each_other_on_one_scale() -> None:
    first, *_ = bars([a_run("up", 1, 20.0), a_run("up", 2, 10.0)])
    assert [(name, at) for name, at, _ in first.parts] == [
        ("prepare", 0.0), ("session", 5.0), ("start", 5.0), ("working", 15.0), ("commit", 97.5), ("merge", 98.75),
    ]  # fmt: skip
    assert sum(width for _, _, width in first.parts) == pytest.approx(100)


def test_plans_lie_at_their_hours_and_money() -> None:
    plot = plot_plans(a_scaling_study()["projected"][0]["plans"])
    assert [mark.text for mark in plot.marks] == ["1", "2"]
    assert plot.marks[0].x < plot.marks[1].x
    assert plot.marks[0].y < plot.marks[1].y, "dearer is higher"


@pytest.mark.parametrize(
    ("language", "sentences"),
    [
        ("en", ["4.25 USD for 1,000,000,000 photos with 1", "2 worker processes are 1.78 times", "neural network", "load 7.2"]),
        ("en", ["assumed 0", "Coherence", "7% at the median and 12% at most", "none of these plans", "970 GB of memory"]),
        ("fr", ["USD pour 1 000 000 000 photos", "2 processus vont 1,78 fois", "aucun de ces plans", "970 Go"]),
        ("es", ["2 procesos son 1,78 veces", "ninguno de estos planes", "peticiones a S3"]),
    ],
)  # fmt: skip
def test_page_of_scaling_says_what_limits_and_what_it_costs(language: str, sentences: list[str]) -> None:
    study = a_scaling_study()
    study["projected"][0]["plans"][1]["machines"] = 1
    seen = page_of(render_scaling_study, study).text(language).replace(THIN, " ")
    for sentence in sentences:
        assert sentence in seen


def test_page_of_scaling_is_in_every_language_and_holds_only_its_own_code() -> None:
    assert not alien_words(page_of(render_scaling_study, a_scaling_study()))
    attacked = a_scaling_study(command=ATTACKS[0], backbone=ATTACKS[1], prices=ATTACKS[0])
    attacked["projected"][0]["plans"][0]["offer"] = ATTACKS[0]
    assert has_only_own_code(page_of(render_scaling_study, attacked))
    alone = a_scaling_study(
        projected=[], curves=a_scaling_study()["curves"][:1], runs=[a_run("up", 1, 24.5), a_run("up", 2, 13.5)]
    )
    alone["simulation"]["largest_error"] = None
    assert not alien_words(page_of(render_scaling_study, alone))


def a_treatment(name: str, accuracy: float, gain: float, **changes: Any) -> dict[str, Any]:
    return {
        "name": name, "base": False, "sort": "colour", "exact": False, "passes": 1, "accuracy": accuracy, "low": accuracy - 0.05,
        "high": accuracy + 0.05, "calibration_error": 0.034, "gain": gain, "gain_error": 0.01, "gain_low": gain - 0.02,
        "gain_high": gain + 0.02, "pixels_ms": 1.25, "network_ms": 10.0, "cost_ms": 11.25, "frontier": False,
    } | changes  # fmt: skip


def a_preprocessing_study(**changes: Any) -> dict[str, Any]:
    rows = [
        a_treatment("pad", 0.8, 0.0, base=True, frontier=True, cost_ms=10.5),
        a_treatment("crop", 0.85, 0.05, exact=True, frontier=True),
        a_treatment("sharpen", 0.7, -0.1),
    ]
    together = a_treatment("", 0.84, 0.04) | {
        "treatments": ["crop", "augment"], "chosen_by_halves": [["crop", "augment"], ["pad"]], "optimistic_accuracy": 0.875,
        "passes": 4, "cost_ms": 44.0,
    }  # fmt: skip
    return {
        "format": 1, "study": "preprocessing", "fruits": "0.1.0", "command": "fruits study preprocessing photos --to out",
        "out": "out", "run": "ab" * 20, "started": "2026-11-29T05:00:00+00:00",
        "machine": {"cpu": "A processor", "cores": 2, "load": 0.1, "busy": False}, "backbone": "fruits-photo", "size": 160,
        "resize_mode": "pad", "photos": 600, "asked": 420, "labels": 50, "sample": 12, "components": 32, "protocol": "groups",
        "folds": 5, "groups": 200, "treatments": rows, "left_out": [{"name": "closer", "reason": "no map"}], "together": together,
        "keep": {"resize_mode": "crop", "gain": 0.05, "clear": True}, "seconds": {"total": 24.5},
    } | changes  # fmt: skip


@pytest.mark.parametrize(
    ("language", "sentences"),
    [
        ("en", ["+4.0% right answers (percentage points) gained", "crop to the centre + test-time augmentation"]),
        ("en", ["−10.0%", "at most 12 photos per label", "it would be 87.5%", "--resize-mode crop"]),
        ("en", ["clearly worse", "gives no feature map"]),
        ("fr", ["rogner au centre", "nettement mieux", "au plus 12 photos par étiquette"]),
        ("es", ["recortar al centro", "claramente peor", "como máximo 12 fotos por etiqueta"]),
    ],
)  # fmt: skip
def test_page_of_preprocessing_says_what_helps_and_what_can_be_kept(language: str, sentences: list[str]) -> None:
    seen = page_of(render_preprocessing_study, a_preprocessing_study()).text(language)
    for sentence in sentences:
        assert sentence in seen


def test_page_of_preprocessing_is_in_every_language_and_holds_only_its_own_code() -> None:
    page = page_of(render_preprocessing_study, a_preprocessing_study(keep=None, sample=None))
    assert not alien_words(page)
    assert "+ clahe" not in page.text()
    attacked = a_preprocessing_study(command=ATTACKS[0], backbone=ATTACKS[1])
    attacked["together"]["treatments"] = [ATTACKS[0]]
    assert has_only_own_code(page_of(render_preprocessing_study, attacked))
