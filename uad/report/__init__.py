"""The page that people look at: an answer, a viewer of maps, tables and figures in one file that needs no network."""
