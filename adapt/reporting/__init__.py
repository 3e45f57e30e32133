"""Reports: tables, the page and the card, made from result objects only."""
