# SPDX-License-Identifier: Apache-2.0
"""What Envoy is told: its bootstrap and listeners, resources made of rows, and the
process that hands them to it."""
