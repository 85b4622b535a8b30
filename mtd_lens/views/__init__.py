"""How results are shown: figures and the dashboard."""
