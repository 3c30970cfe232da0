"""From folders to a board: aggregates, intervals, ranks, validity, exports and the page."""
