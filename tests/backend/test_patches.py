from backend.patches import Downscale, FreeU, apart


def test_only_what_changes_sizes_inside_keeps_runs_apart():
    assert apart(()) == apart((FreeU(1.1, 1.2, 0.9, 0.2, 2),)) == ""
    deep = Downscale(3, 2.0, 0.0, 0.35, True, "bicubic", "bicubic")
    assert "lower resolution" in apart((FreeU(1.1, 1.2, 0.9, 0.2, 2), deep))
