"""Scores as a plain table: a line for each method, near the fault beside far from it."""

_COLUMNS = ("0-2", "2-4", "4-8", "8-16", "16-32", "32-inf")


def score_table(scores: dict[str, dict], seconds: dict[str, float]) -> str:
    """Formats `metrics.summary` of several methods.

    Args:
      scores: for each method, rows by distance band.
      seconds: for each method, time taken.

    Returns:
      The table, with the unit of each column in its head.
    """
    first = next(iter(scores.values()))
    width = max(len(name) for name in (*scores, "distance to fault [px]"))
    counts = "".join(f"{first[band]['count'] + first[band]['missing']:>9,}" for band in _COLUMNS)
    lines = [
        f"{'':{width}}  {'MAE [px]':>54} {'slip bias':>10} {'far NMAD':>9} {'far bias':>9}"
        f" {'far out':>8} {'measured':>9} {'time':>7}",
        f"{'distance to fault [px]':{width}}  {''.join(f'{band:>9}' for band in _COLUMNS)}"
        f" {'near [-]':>10} {'[px]':>9} {'[px]':>9} {'>1 px':>8} {'':>9} {'[s]':>7}",
        f"{'pixels':{width}}  {counts}",
    ]
    for name, rows in scores.items():
        line = f"{name:{width}}  "
        line += "".join(f"{rows[band]['mae']:9.3f}" for band in _COLUMNS)
        far, everything = rows["far"], rows["all"]
        bias = max((far["median_row"], far["median_col"]), key=abs)
        share = everything["count"] / max(everything["count"] + everything["missing"], 1)
        line += f" {rows['near']['slip_bias']:+10.3f}"
        line += f" {far['nmad']:9.4f} {bias:+9.4f}"
        line += f" {far['outliers']:8.2%} {share:9.1%} {seconds[name]:7.1f}"
        lines.append(line)
    lines.append(
        "near: within 8 px of the fault; far: beyond 32 px. slip bias: mean signed error along "
        "slip,\nas a share of slip, averaged over faults: -0.5 is a step not seen at all, "
        "0 is perfect."
    )
    return "\n".join(lines)


def characteristics_table(found: dict[str, dict]) -> str:
    """Formats `metrics.characteristics` of several methods; a column without a figure is blank."""
    width = max(len(name) for name in (*found, "method"))
    columns = (
        ("smear [px]", "fault", "smear_px", "8.1f"),
        ("slip 0-32", "fault", "slip_error_0-32", "+8.1%"),
        ("slip 8-40", "fault", "slip_error_8-40", "+8.1%"),
        ("locking [px]", "locking", "locking_px", "8.4f"),
        ("calm rms [px]", "calm", "scatter_px", "8.4f"),
        ("false step [px]", "calm", "false_step_px", "8.3f"),
        ("in sigmas", "calm", "false_step_sigmas", "8.2f"),
    )
    heads = "".join(f"{head:>17}" for head, *_ in columns)
    lines = [f"{'method':{width}}{heads}"]
    for name, groups in found.items():
        cells = (f"{groups[group][key]:{form}}" for _, group, key, form in columns)
        lines.append(f"{name:{width}}" + "".join(f"{'' if 'nan' in c else c:>17}" for c in cells))
    lines.append(
        "smear: distance beyond which the bias along slip stays under 10 % of slip. slip: mean "
        "error of\nthe slip from lines fitted on both sides between these distances. false step: "
        "the largest between\n8 px blocks of a pair without a fault, mean over pairs."
    )
    return "\n".join(lines)
