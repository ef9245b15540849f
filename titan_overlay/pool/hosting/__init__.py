"""Hosting: the objects that live on this node, and the code behind them."""
