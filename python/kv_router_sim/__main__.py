"""``python -m kv_router_sim`` is the command ``sim``."""

from kv_router_sim._command import main

if __name__ == "__main__":
    main()
