# SPDX-License-Identifier: Apache-2.0
"""Internal DNS (contract, section 8): who asks, what exists for them, messages,
the server, and forwarding of everything else."""
