from secateur.cli.advise import tell_plan

PLAN = {
    "blocks": 2,
    "layers": [
        {"name": "m.0.q", "ratio": 0.5, "weights": 10},
        {"name": "m.1.k", "ratio": 0.25, "weights": 10},
    ],
    "ratios_known": False,
    "block_weights": 20,
    "removed_weights": 8,
    "parameters": [30, 22],
    "bytes": [60e6, 44e6],
    "calibration_tokens": 16,
    "seconds": 90.0,
    "memory_mb": 500.0,
}


def test_a_plan_is_told_by_kind_of_matrix(capsys):
    tell_plan(PLAN, as_json=False)
    said = capsys.readouterr().out
    assert "0.q" in said and "50.0%" in said and "1.5 min, at least 500 MB" in said
    assert "the allocator reads the model first" in said and "60.0 MB before, 44.0 MB after" in said
