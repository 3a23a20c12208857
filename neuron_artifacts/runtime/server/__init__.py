"""An OpenAI-compatible HTTP server over one engine.

::

    lifecycle   sockets, signals, draining: runs uvicorn around the app
    app         routes and their order
    gate        what every request passes first: id, key, readiness
    body        bytes of a request to a checked model of ``protocol``
    completions, chat, tokenize, models, health
                one module per group of routes
    generation  the bridge between the engine's thread and the event loop
    streaming   server-sent events
    metrics     Prometheus, under vLLM's names
"""
