# SPDX-License-Identifier: Apache-2.0
"""Health checks of machines, run by a process of their own."""
