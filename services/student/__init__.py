"""The student service: predictions of published models, and the words behind them."""
