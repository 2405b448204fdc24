"""The dashboard's pages, each a module with `mount(app, directory)`; they put panels and controls together."""
