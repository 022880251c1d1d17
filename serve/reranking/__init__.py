"""Cross-encoders that run here: how well each of many documents fits a query."""
