"""``python -m psec_jax.evaluate``: the command line of ``psec_jax.evaluation``."""

import sys

from psec_jax.evaluation import evaluate

if __name__ == "__main__":
    from psec_jax.evaluation.__main__ import main

    main()
else:
    # Python gives a module that it imports its name in the package, where ``psec_jax.evaluate`` is
    # the function, and stays it.
    sys.modules[__name__] = evaluate  # type: ignore[assignment]
