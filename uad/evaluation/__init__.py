"""How maps are judged: metrics, protocols, intervals, figures and the report."""
