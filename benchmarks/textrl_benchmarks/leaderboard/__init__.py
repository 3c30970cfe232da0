"""Boards of agents x environments x seeds: plan, run, read, verify, and send in.

suite.py, plan.py    a TOML file -> cells; cell.py, result.py and samples.py are their data
running/             cells -> folders, on processes or on Ray
board/               folders -> scores, intervals, ranks, and the page
verification/        whether a folder is what it says
"""
