# SPDX-License-Identifier: Apache-2.0
"""``python -m flyebpf`` is ``flyebpf``."""

from flyebpf.cli.main import main

if __name__ == "__main__":
    main()
